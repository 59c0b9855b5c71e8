"""Networks: named by a spec, loaded where they are to run."""
