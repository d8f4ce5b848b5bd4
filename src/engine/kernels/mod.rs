//! The inner loops of the engine, and the only `unsafe` of the crate.
//!
//! - `indirect_gemm`: matrix multiplication whose left matrix is read through a list of offsets, the core of every
//!   convolution;
//! - [`simd`]: plain loops compiled for the vector instructions of the processor;
//! - `vector`: explicit SIMD vectors for straight-line code;
//! - [`chains`]: the arithmetic peak with which all of them are compared.
//!
//! `unsafe` is used in the microkernel of `indirect_gemm`, for the intrinsics of `vector`, and to call code compiled
//! for a processor feature that was detected. A comment at every block explains why it is sound. The environment
//! variable `RESNET_KERNELS` (`auto`, `portable`, `avx2`, `avx512`) selects a version; one that the processor does not
//! support is rejected.
#![allow(unsafe_code)]

pub mod chains;
pub(crate) mod indirect_gemm;
pub mod simd;
pub(crate) mod vector;
