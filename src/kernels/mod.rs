//! The narrow doors to speed: what lies behind them is fast, what stands before them is mathematics.
//!
//! Someone following the equations never needs to look inside. Today there is one door, [`gemm`].

pub mod gemm;
