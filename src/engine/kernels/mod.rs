//! The inner loops of the engine, and the only `unsafe` of the crate.
//!
//! - `indirect_gemm`: matrix multiplication whose left matrix is read through a list of offsets, the core of every
//!   convolution;
//! - [`simd`]: plain loops compiled for the vector instructions of the machine they run on;
//! - `vector`: explicit SIMD vectors for straight-line code;
//! - [`chains`]: the arithmetic peak that all of them are measured against.
//!
//! `unsafe` is the microkernel of `indirect_gemm`, the intrinsics of `vector`, and the calls of code compiled for a
//! processor feature that was detected. Each block says why it is sound. The environment variable `RESNET_KERNELS`
//! (`portable`, `avx2`, `avx512`) selects a version; one that the machine does not have is rejected with an error.
#![allow(unsafe_code)]

pub mod chains;
pub(crate) mod indirect_gemm;
pub mod simd;
pub(crate) mod vector;
