//! Writes the embedded photographs as picture files of many sizes, PNG and JPEG, one folder for each class: something to try
//! `--data FOLDER` on.
//!
//! ```text
//! cargo run --release --example pictures -- photos
//! resnet data info --data photos
//! ```
//!
//! 1,400 files in `photos/train/CLASS/` and 500 in `photos/test/CLASS/`, from 24x24 to 96x108 pixels, enlarged or reduced and a
//! little out of proportion, as photographs from many hands would be.
use image::imageops::{resize, FilterType};
use image::{codecs::jpeg::JpegEncoder, RgbImage};
use resnet_by_hand::data::{embedded, Dataset};
use std::error::Error;
use std::fs::{self, File};
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder] = &arguments[..] else {
        eprintln!("usage: pictures FOLDER");
        std::process::exit(2);
    };
    let folder = Path::new(folder);
    if folder.exists() {
        return Err(format!("{} is there already and was not changed", folder.display()).into());
    }
    let splits = embedded::load();
    for (name, dataset) in [("train", &splits.train), ("test", &splits.test)] {
        write_all(dataset, &folder.join(name))?;
        println!("{}: {} pictures", folder.join(name).display(), dataset.len());
    }
    Ok(())
}

fn write_all(dataset: &Dataset, folder: &Path) -> Result<(), Box<dyn Error>> {
    for (i, &label) in dataset.labels.iter().enumerate() {
        let class = folder.join(&dataset.classes[usize::from(label)]);
        fs::create_dir_all(&class)?;
        let pixels = dataset.image(i).iter().copied().collect();
        let picture = RgbImage::from_raw(32, 32, pixels).expect("32 x 32 pixels of three bytes");
        // Sizes that have nothing to do with the class.
        let width = 24 + 37 * i as u32 % 73;
        let height = width + width * (11 * i as u32 % 5) / 32;
        let picture = resize(&picture, width, height, FilterType::CatmullRom);
        if i % 3 == 0 {
            picture.save(class.join(format!("{i:04}.png")))?;
        } else {
            JpegEncoder::new_with_quality(File::create(class.join(format!("{i:04}.jpg")))?, 92)
                .encode_image(&picture)?;
        }
    }
    Ok(())
}
