// What the libraries of the stand-in share.
#pragma once
#include <functional>

// Put work off until something waits for the stream.
void enqueue(void* stream, std::function<void()> work);

[[noreturn]] void give_up(const char* format, ...);
