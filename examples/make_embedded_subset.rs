//! Makes `src/data/cifar10-subset.bin` from the published CIFAR-10: the first 140 training and 50 test images of each
//! class, interleaved by class.
//!
//! ```text
//! cargo run --release --example make_embedded_subset -- CIFAR10_FOLDER OUTPUT
//! ```
use resnet_by_hand::data::{Dataset, cifar10, embedded};
use resnet_by_hand::{Error, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, output] = &arguments[..] else {
        eprintln!("usage: make_embedded_subset CIFAR10_FOLDER OUTPUT");
        std::process::exit(2);
    };
    let splits = cifar10::load(folder)?;
    let mut records = Vec::new();
    for (dataset, count) in [(&splits.train, embedded::TRAIN_IMAGES), (&splits.test, embedded::TEST_IMAGES)] {
        let chosen = dataset.subset(&first_of_each_class(dataset, count))?;
        cifar10::write_records(&chosen, &mut records, output)?;
    }
    embedded::encode(&mut records);
    std::fs::write(output, &records).map_err(|e| Error::io(output, "write", e))?;
    println!("{output}: {} bytes", records.len());
    Ok(())
}

/// The k-th image of class 0, of class 1, .. of class 9, for k = 0, 1, 2, .. up to `count` images.
fn first_of_each_class(dataset: &Dataset, count: usize) -> Vec<usize> {
    let classes = dataset.classes.len();
    let of_class = |class: usize| (0..dataset.len()).filter(move |&i| usize::from(dataset.labels[i]) == class);
    let members: Vec<Vec<usize>> = (0..classes).map(|class| of_class(class).take(count / classes).collect()).collect();
    (0..count).map(|i| members[i % classes][i / classes]).collect()
}
