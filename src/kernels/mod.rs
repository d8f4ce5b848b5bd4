//! The narrow doors to speed: what lies behind them is fast, what stands before them is mathematics.
//!
//! Someone following the equations never needs to look inside.
//!
//! - [`gemm`]: matrix multiplication for any strides and number type;
//! - [`gather_gemm`]: matrix multiplication whose left matrix is not stored but found, the heart of the fast convolution;
//! - [`simd`]: plain loops compiled for the vector unit of the machine they run on;
//! - [`buffers`]: large arrays that are used again;
//! - [`memory`]: what a program can ask of the allocator.
//!
//! The only `unsafe` of the crate is in this folder: the tile of [`gather_gemm`], the calls into code compiled for a
//! processor feature that was detected, and one call of the C library. Each block says why it is sound. The environment
//! variable `RESNET_KERNELS` (`portable`, `avx2`) forces a version; one the machine does not have is refused loudly.
#![allow(unsafe_code)]

pub mod buffers;
pub mod gather_gemm;
pub mod gemm;
pub mod memory;
pub mod simd;
pub(crate) mod vector;
