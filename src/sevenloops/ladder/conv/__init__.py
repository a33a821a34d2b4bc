"""The rungs of the convolution that are files; the others are algorithms of `sevenloops.algorithms`."""
