//! Writes the embedded photographs as picture files of many sizes, PNG and JPEG, in one folder per class: test data for
//! `--data FOLDER`.
//!
//! ```text
//! cargo run --release --example book -- pictures pets cat deer dog horse
//! resnet data info --data pets
//! ```
//!
//! For each class there are 140 files in `pets/train/CLASS/` and 50 in `pets/test/CLASS/`, from 24x24 to 96x108 pixels,
//! scaled and slightly distorted, like photographs from different sources. Without a class argument, all ten classes
//! are written.
use jpeg_encoder::{ColorType, Encoder};
use resnet_by_hand::data::{Dataset, embedded, picture};
use std::error::Error;
use std::fs;
use std::path::Path;

pub fn main() -> Result<(), Box<dyn Error>> {
    let arguments = crate::arguments();
    let Some((folder, classes)) = arguments.split_first() else { crate::wrong_arguments() };
    let folder = Path::new(folder);
    if folder.exists() {
        return Err(format!("{} already exists and was not changed", folder.display()).into());
    }
    let splits = embedded::load();
    let known = &splits.train.classes;
    if let Some(unknown) = classes.iter().find(|class| !known.contains(class)) {
        return Err(format!("expected classes among {}, got {unknown}", known.join(", ")).into());
    }
    for (name, dataset) in [("train", &splits.train), ("test", &splits.test)] {
        let count = write_all(dataset, classes, &folder.join(name))?;
        println!("{}: {count} pictures", folder.join(name).display());
    }
    Ok(())
}

/// Writes the images of these classes, or of all classes if none is given; returns their number.
fn write_all(dataset: &Dataset, classes: &[String], folder: &Path) -> Result<usize, Box<dyn Error>> {
    let mut count = 0;
    for (i, &label) in dataset.labels.iter().enumerate() {
        let name = &dataset.classes[usize::from(label)];
        if !classes.is_empty() && !classes.contains(name) {
            continue;
        }
        count += 1;
        let class = folder.join(name);
        fs::create_dir_all(&class)?;
        // Sizes that do not depend on the class.
        let width = 24 + 37 * i % 73;
        let height = width + width * (11 * i % 5) / 32;
        let pixels = picture::resize(dataset.image(i), height, width);
        if i % 3 == 0 {
            picture::write_png(&class.join(format!("{i:04}.png")), pixels.view())?;
        } else {
            let encoder = Encoder::new_file(class.join(format!("{i:04}.jpg")), 92)?;
            encoder.encode(&pixels.into_raw_vec_and_offset().0, width as u16, height as u16, ColorType::Rgb)?;
        }
    }
    Ok(count)
}
