"""Measuring kernels against the established libraries: problems from networks, one process per engine, alternating."""
