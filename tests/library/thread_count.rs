//! The weights after training are bit-identical for every number of threads, and those of the table at the end.

use resnet_by_hand::Scalar;
use resnet_by_hand::data::embedded;
use resnet_by_hand::engine::kernels::simd::{Isa, isa};
use resnet_by_hand::engine::{Algorithm, Engine};
use resnet_by_hand::model::{Architecture, ResNet, Stage};
use resnet_by_hand::parameters::fingerprint;
use resnet_by_hand::train::{Executor, Recipe, Reference, Trainer};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Trains an epoch on `images` embedded images with `threads` threads; the last batch is smaller.
fn trained<T: Scalar>(model: &Architecture, images: usize, threads: usize, executor: Arc<dyn Executor<T>>) -> u64 {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let train = embedded::load().train.subset(&(0..images).collect::<Vec<_>>()).unwrap();
        let recipe = Recipe { epochs: 1, batch_size: 28, ..Recipe::by_name("demo").unwrap() };
        let model = ResNet::<T>::new(model, 5).unwrap();
        let before = fingerprint(&model);
        let mut trainer = Trainer::new(model, executor, recipe, Arc::new(train)).unwrap();
        while !trainer.is_done() {
            trainer.train_epoch(&mut |_| ControlFlow::Continue(())).unwrap();
        }
        let after = fingerprint(trainer.model());
        assert_ne!(before, after, "training changed nothing");
        after
    })
}

/// A network with at most two blocks of each stage: the others repeat the second.
fn short(name: &str) -> Architecture {
    let mut architecture = Architecture::by_name(name).unwrap().with_classes(10);
    architecture.stages.iter_mut().for_each(|stage| stage.blocks = stage.blocks.min(2));
    architecture
}

fn same_for_every_thread_count(model: &Architecture, images: usize) {
    same_with::<f32>(model, images, Arc::new(Engine::default()));
}

fn same_with<T: Scalar>(model: &Architecture, images: usize, executor: Arc<dyn Executor<T>>) {
    let one = trained::<T>(model, images, 1, executor.clone());
    for threads in [2, 3, 8] {
        let weights = trained::<T>(model, images, threads, executor.clone());
        assert_eq!(weights, one, "{}, {executor:?}, {threads} threads against one", model.name);
    }
}

#[test]
fn every_algorithm_of_the_engine() {
    use Algorithm::{Gemm, Indirect, Winograd2, Winograd4};
    for algorithm in [Gemm, Indirect, Winograd2, Winograd4] {
        same_with::<f32>(&short("resnet8"), 33, Arc::new(Engine::new(algorithm))); // two steps
    }
}

#[test]
fn the_reference_in_both_types() {
    // Two steps; in the last stage 28 images are two chunks of a convolution, and fewer are one.
    same_with::<f32>(&short("resnet8"), 30, Arc::new(Reference));
    same_with::<f64>(&short("resnet8"), 30, Arc::new(Reference));
}

/// Enough channels for the convolutions whose points are shared among the threads.
#[test]
fn wide_basic_blocks_in_f32() {
    let mut model = short("resnet18-cifar");
    model.stages = vec![model.stages[0], Stage { stride: 8, ..model.stages[3] }];
    model.stages.iter_mut().for_each(|stage| stage.blocks = 1);
    same_for_every_thread_count(&model, 10);
}

#[test]
fn option_a_basic_blocks_in_f32() {
    same_for_every_thread_count(&short("resnet8"), 60); // three steps
}

/// Bottlenecks, groups, projections, a 7x7 stem and a max pool.
#[test]
fn grouped_bottlenecks_in_f32() {
    let mut model = short("resnext50_32x4d");
    model.stages.truncate(2);
    same_for_every_thread_count(&model, 12);
}

#[test]
fn pre_activation_in_f32() {
    same_for_every_thread_count(&short("preact110"), 40); // two steps
}

/// Six steps of the demo, from seed 1 to weights: initialisation, the order of the images, crops, flips, the network, its
/// gradients and the optimiser have not changed. Whoever changes the order of a sum on purpose updates the values here; a new
/// version of a crate must not change them.
///
/// The portable kernels round a product and a sum separately, the others once for both, hence two values. They hold where
/// `matrixmultiply`, which multiplies in the linear layer, also has FMA, and for the `exp` and `ln` of glibc. (Correctly
/// rounded ones give the same weights: tried in the softmax.)
#[test]
fn six_steps_of_the_demo_are_known() {
    let recipe = Recipe { seed: 1, ..Recipe::by_name("demo").unwrap() };
    let model =
        ResNet::<f32>::new(&Architecture::by_name(&recipe.model).unwrap().with_classes(10), recipe.seed).unwrap();
    let mut trainer =
        Trainer::new(model, Arc::new(Engine::default()), recipe, Arc::new(embedded::load().train)).unwrap();
    let after_six = |step| if step == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    assert_eq!(trainer.train_epoch(&mut |metrics| after_six(metrics.step)).unwrap(), None);
    #[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
    if is_x86_feature_detected!("fma") {
        let expected = match isa() {
            Isa::Portable => 0x3076441c89f01ff5,
            Isa::Avx2 | Isa::Avx512 => 0x1bb73408fb417caa,
        };
        let weights = fingerprint(trainer.model());
        assert_eq!(weights, expected, "{:?}: {weights:#018x}", isa());
        return;
    }
    eprintln!("SKIPPED: the weights are known for glibc on x86-64 with FMA only");
}
