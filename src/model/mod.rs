//! Residual blocks and the networks built of them.
