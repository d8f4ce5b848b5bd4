//! The narrow doors to speed.
