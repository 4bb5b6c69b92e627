//! Operations that training on a CPU needs fast, forward and backward.
