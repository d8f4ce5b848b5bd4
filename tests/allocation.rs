//! A training step after the first requests no large memory from the allocator.

use ndarray::Array4;
use resnet_by_hand::engine::Engine;
use resnet_by_hand::layers::SoftmaxCrossEntropy;
use resnet_by_hand::model::{Architecture, ResNet};
use resnet_by_hand::optim::{Sgd, SgdConfig};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Requests of at least this many bytes are counted.
const LARGE: usize = 1 << 16;

struct Counting;

static REQUESTS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        REQUESTS.fetch_add(usize::from(layout.size() >= LARGE), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        REQUESTS.fetch_add(usize::from(layout.size() >= LARGE), Ordering::Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        REQUESTS.fetch_add(usize::from(size >= LARGE), Ordering::Relaxed);
        unsafe { System.realloc(ptr, layout, size) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// On one thread: with several, the number of work spaces in use at once depends on work stealing, so a later step may
/// need one more.
#[test]
fn steps_after_the_first_allocate_nothing_large() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        let mut model = ResNet::<f32>::new(&Architecture::by_name("resnet20").unwrap(), 1).unwrap();
        let x = Array4::from_shape_fn((32, 32, 32, 3), |(n, h, w, c)| ((n + 3 * h + 5 * w + c) % 11) as f32 - 5.0);
        let (x, targets) = (x.into_shared(), vec![1; 32]);
        let engine = Engine::default();
        let (mut sgd, loss) = (Sgd::new(SgdConfig::default()).unwrap(), SoftmaxCrossEntropy::new());
        let mut requests = Vec::new();
        for _ in 0..4 {
            let before = REQUESTS.load(Ordering::Relaxed);
            let (logits, cache) = engine.forward(&model, &x).unwrap();
            let (_, loss_cache) = loss.forward(&logits, &targets).unwrap();
            engine.update_running_statistics(&mut model, &cache);
            let gradients = engine.parameter_gradients(&model, &loss.backward(&loss_cache), cache).unwrap();
            sgd.step(&mut model, &gradients, 0.1).unwrap();
            engine.recycle(gradients);
            requests.push(REQUESTS.load(Ordering::Relaxed) - before);
        }
        assert!(requests[0] > 50, "the first step needs its arrays: {requests:?}");
        assert_eq!(requests[1..], [0, 0, 0], "requests of 64 KiB or more, step by step: {requests:?}");
    });
}
