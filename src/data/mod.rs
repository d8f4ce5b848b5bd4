//! From bytes to batches.
