//! The narrow doors to speed: what lies behind them is fast, what stands before them is mathematics.
//!
//! Someone following the equations never needs to look inside.
//!
//! - [`gemm`]: matrix multiplication for any strides and number type;
//! - [`gather_gemm`]: matrix multiplication whose left matrix is not stored but found, the heart of the fast convolution;
//! - [`simd`]: plain loops compiled for the vector unit of the machine they run on;
//! - [`buffers`]: large arrays that are used again;
//! - [`chains`]: the peak that all of them are measured against.
//!
//! The only `unsafe` of the crate is in this folder: the tile of [`gather_gemm`], the instructions behind `vector`, and the
//! calls into code compiled for a processor feature that was detected. Each block says why it is sound. The environment
//! variable `RESNET_KERNELS` (`portable`, `avx2`, `avx512`) forces a version; one the machine does not have is refused
//! loudly.
#![allow(unsafe_code)]

pub mod buffers;
pub mod chains;
pub mod gather_gemm;

pub mod simd;
pub(crate) mod vector;
