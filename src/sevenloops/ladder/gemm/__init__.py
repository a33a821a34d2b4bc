"""The rungs of the product, a file each; `define(problem, machine)` is all that a file needs."""
