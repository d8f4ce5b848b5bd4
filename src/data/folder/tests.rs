//! Layouts as people have them.

use super::tree::MOST_DEPTH;
use super::*;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A temporary folder with files of these names; they are empty unless a test reads pictures.
struct Files(PathBuf);

impl Files {
    fn new(name: &str, files: &[&str]) -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("resnet-by-hand-folder-{}-{number}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        let new = Files(path);
        files.iter().for_each(|file| new.add(file));
        new
    }

    fn add(&self, file: &str) {
        let path = self.0.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    fn found(&self) -> ImageFolder {
        ImageFolder::find(&self.0).unwrap().expect("a folder of pictures")
    }

    fn refused(&self) -> String {
        ImageFolder::find(&self.0).unwrap_err().to_string()
    }

    /// Pictures and labels as text: `a/1.png 0`.
    fn names(&self, pictures: &[(PathBuf, u16)]) -> Vec<String> {
        let name = |path: &Path| path.strip_prefix(&self.0).unwrap().display().to_string();
        pictures.iter().map(|(path, label)| format!("{} {label}", name(path))).collect()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn validation_beside_test_is_read_and_alone_is_the_test() {
    let files = ["train/a/1.png", "train/b/1.png", "val/a/2.png", "val/b/2.png"];
    let files = Files::new("splits", &files);
    let found = files.found();
    assert_eq!(files.names(&found.test), ["val/a/2.png 0", "val/b/2.png 1"]);
    assert_eq!(found.validation, None);
    assert_eq!(found.notes(), ["train: train/, 2 classes; test: val/ (there is no other folder to test on)"]);
    files.add("test/a/3.png");
    files.add("test/b/3.png");
    let found = files.found();
    assert_eq!(files.names(&found.test), ["test/a/3.png 0", "test/b/3.png 1"]);
    assert_eq!(files.names(&found.validation.clone().unwrap()), ["val/a/2.png 0", "val/b/2.png 1"]);
    assert_eq!(found.notes(), ["train: train/, 2 classes; validation: val/; test: test/"]);
}

/// Two classes in each of these splits; returns what was recognised.
fn recognised(name: &str, splits: &[&str]) -> String {
    let files = Files::new(name, &[]);
    for split in splits {
        ["cat/1.png", "dog/1.png"].iter().for_each(|file| files.add(&format!("{split}/{file}")));
    }
    let found = files.found();
    assert_eq!(found.classes(), ["cat", "dog"], "{splits:?}");
    assert_eq!((found.train.len(), found.test.len()), (2, 2), "{splits:?}");
    found.notes().join("; ")
}

#[test]
fn splits_in_any_spelling_and_depth() {
    for (splits, expected) in [
        (&["Training", "Testing"][..], "train: Training/, 2 classes; test: Testing/"),
        (&["training_set", "test_set"], "train: training_set/, 2 classes; test: test_set/"),
        (&["Training Set", "test-images"], "train: Training Set/, 2 classes; test: test-images/"),
        (&["train1", "test2"], "train: train1/, 2 classes; test: test2/"),
        (
            &["seg_train/seg_train", "seg_test/seg_test"],
            "train: seg_train/seg_train/, 2 classes; test: seg_test/seg_test/",
        ),
        (&["archive/train", "archive/test"], "train: archive/train/, 2 classes; test: archive/test/"),
        (&["test data/x/TRAIN", "test data/x/TEST"], "train: test data/x/TRAIN/, 2 classes; test: test data/x/TEST/"),
        (&["train/images", "test/images"], "train: train/images/, 2 classes; test: test/images/"),
        (
            &["train/birds/photos", "test/birds/photos"],
            "train: train/birds/photos/, 2 classes; test: test/birds/photos/",
        ),
        (&["train_original", "test"], "train: train_original/, 2 classes; test: test/"),
        (
            &["training", "validation", "evaluation"],
            "train: training/, 2 classes; validation: validation/; test: evaluation/",
        ),
        (&["train", "dev", "test"], "train: train/, 2 classes; validation: dev/; test: test/"),
        (&["train", "eval", "test"], "train: train/, 2 classes; validation: eval/; test: test/"),
        (&["train", "test", "extra"], "train: train/, 2 classes; test: test/; not read: extra/"),
    ] {
        assert_eq!(recognised("spelling", splits), expected);
    }
}

#[test]
fn what_is_beside_the_splits_and_classes_is_reported() {
    let files = ["train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png"];
    let files = Files::new("strays", &files);
    for stray in [
        "preview.png",
        "train/0.png",
        "test/0.JPG",
        "test/Thumbs.db",
        "labels.csv",
        "__MACOSX/train/a/1.png",
        "train/.DS_Store",
        "train/.ipynb_checkpoints/1-checkpoint.png",
        "pred/pred/1.png",
    ] {
        files.add(stray);
    }
    let notes = [
        "train: train/, 2 classes; test: test/",
        "not read: pred/ (pictures without classes)",
        "3 pictures beside the folders of the classes left out: preview.png, test/0.JPG, train/0.png",
        "5 files left out, hidden or not PNG, JPEG, WebP, BMP, GIF or TIFF: .csv 1, .db 1, __MACOSX 1, hidden 2",
    ];
    assert_eq!(files.found().notes(), notes);
    let files =
        Files::new("strays", &["set/a/1.jpe", "set/a/2.jfif", "set/b/1.png", "set/b/2.png", "set/3.png", "4.png"]);
    let notes = [
        "the data set is in set/",
        "2 pictures beside the folders of the classes left out: 4.png, set/3.png",
        "no test/ or val/: every fifth image of each class, 2 in all, is held out for testing",
    ];
    assert_eq!(files.found().notes(), notes);
}

#[test]
fn classes_may_be_called_like_splits() {
    for names in [
        ["bus", "train"],
        ["control", "test"],
        ["dev", "prod"],
        ["freight train", "passenger train"],
        ["test tube", "training shoe"],
        ["litmus_test", "pregnancy_test"],
    ] {
        let files = Files::new("called", &[]);
        names.iter().for_each(|name| ["1.png", "2.png"].iter().for_each(|file| files.add(&format!("{name}/{file}"))));
        let found = files.found();
        assert_eq!(found.classes(), names);
        assert!(found.notes()[0].starts_with("read as classes, because no other split is beside them: "), "{names:?}");
    }
    // Beside two classes it is rather a split whose pictures have no classes, unless every split has it.
    for split in ["test", "Testing", "val", "valid", "test 2", "evaluation"] {
        let files = ["cats/1.png", "cats/2.png", "dogs/1.png", "dogs/2.png", &format!("{split}/1.png")];
        rejected(&files, &[&format!("found {split}/, which is called like a split: if it is a class, rename it;")]);
    }
    for class in ["train", "dev", "stress_test"] {
        assert_eq!(notes(&["cats/1.png", "cats/2.png", "dogs/1.png", &format!("{class}/1.png")]).len(), 2);
    }
    let three = ["test/1.png", "cats/1.png", "dogs/1.png"];
    let three: Vec<String> = ["train", "test"].iter().flat_map(|s| three.map(|file| format!("{s}/{file}"))).collect();
    let files = Files::new("called", &three.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(files.found().classes(), ["cats", "dogs", "test"]);
    // In splits, too.
    let files = Files::new("called", &["train/train/1.png", "train/test/1.png", "test/train/1.png", "test/test/1.png"]);
    assert_eq!(files.found().classes(), ["test", "train"]);
}

#[test]
fn layouts_that_mean_two_things_or_nothing_are_rejected() {
    let flat = "found pictures without classes in";
    rejected(
        &["train/1.png", "train/2.png", "test/1.png", "l.csv"],
        &[flat, "test/ (1) and train/ (2)", "table (.csv)"],
    );
    rejected(&["train/1.png", "test1/1.png"], &["train/CLASS/", flat]);
    rejected(
        &["train/cat.0.jpg", "train/dog.0.jpg", "train/cat.1.jpg", "train/dog.1.jpg"],
        &[flat, "begin with cat, dog"],
    );
    rejected(&["cat.0.jpg", "cat.1.jpg"], &[flat, "the folder itself (2)"]);
    rejected(&["train/images/1.png", "valid/images/1.png"], &[flat, "train/ (1) and valid/ (1)"]);
    rejected(&["train/a/1.png", "train/b/1.png", "test/1.png"], &["in test/ (1)", "or give", "every fifth"]);
    rejected(&["train/a/1.png", "train/b/1.png", "test/test/1.png"], &["in test/ (1)"]);
    rejected(&["train/a/1.png", "train/b/1.png"], &["found only train/", "every fifth"]);
    rejected(&["test/a/1.png", "test/b/1.png", "val/a/1.png"], &["found only test/, val/"]);
    rejected(&["train/a/1.png", "train/b/1.png", "bus/1.png"], &["found only train/", "name is that of a class"]);
    let two =
        ["train/a/1.png", "train/b/1.png", "Training/a/1.png", "Training/b/1.png", "test/a/1.png", "test/b/1.png"];
    rejected(&two, &["expected one folder of training images, found Training/ and train/"]);
    let two = ["x_train/a/1.png", "x_test/a/1.png", "y_train/a/1.png", "y_test/a/1.png"];
    rejected(&two, &["found x_test/, x_train/, y_test/ and y_train/"]);
    rejected(&["cat/train/1.png", "cat/test/1.png", "dog/train/1.png"], &["found cat/train/, cat/test/; if"]);
    rejected(
        &["a/train/x/1.png", "a/train/y/1.png", "b/test/x/1.png", "b/test/y/1.png"],
        &["found a/train/, b/test/; if"],
    );
    rejected(&["images/1.png", "images/2.png"], &[flat, "in images/ (2)"]);
    rejected(
        &["train/a/1.png", "train/b/1.txt", "test/a/1.png", "test/b/1.png"],
        &["found none in train/b/ (1 file", ".txt 1"],
    );
    let inner = ["amazon/images/a/1.png", "amazon/images/b/1.png", "dslr/images/a/1.png", "dslr/images/b/1.png"];
    rejected(&inner, &["amazon/, dslr/, which all contain folders of the same names (a, b)"]);
    let inner = ["Entrenamiento/a/1.png", "Entrenamiento/b/1.png", "Prueba/a/1.png", "Prueba/b/1.png"];
    rejected(&inner, &["Entrenamiento/, Prueba/, which all contain folders of the same names (a, b)"]);
}

/// The notes about these pictures.
fn notes(pictures: &[&str]) -> Vec<String> {
    Files::new("notes", pictures).found().notes().to_vec()
}

/// Rejects these pictures with a message that contains the parts.
fn rejected(pictures: &[&str], parts: &[&str]) {
    let message = Files::new("rejected", pictures).refused();
    parts.iter().for_each(|part| assert!(message.contains(part), "{part}: {message}"));
}

#[test]
fn a_second_copy_of_the_data_set_is_no_class() {
    let copy = "names of those beside";
    rejected(&["no/1.png", "yes/1.png", "brain/no/1.png", "brain/yes/1.png"], &["found brain/, ", copy, "(no, yes)"]);
    rejected(&["no/1.png", "yes/1.png", "x/In/No/1.png", "x/In/Yes/1.png"], &["found x/In/, ", "beside x/ (no, yes)"]);
    rejected(&["a/1.png", "b/1.png", "c/1.png", "d/a/1.png", "d/b/1.png", "d/2.png"], &["found d/, ", "(a, b)"]);
    rejected(&["a/1.png", "copy/a/1.png"], &["found copy/, ", copy]);
    let splits = ["train/a/1.png", "train/b/1.png", "train/train/a/1.png", "train/train/b/1.png"];
    rejected(&[&splits[..], &["test/a/1.png", "test/b/1.png"]].concat(), &["found train/train/, ", copy]);
    // One name of three or more: "other" of two kinds.
    assert_eq!(notes(&["bag/1.png", "bag/2.png", "other/1.png", "shoe/a/1.png", "shoe/other/2.png"]).len(), 2);
    // A folder with its own name is no copy.
    assert_eq!(notes(&["a/a/1.png", "a/b/2.png", "b/b/1.png", "c/2.png"]).len(), 2);
}

#[test]
fn splits_inside_classes_are_found_at_any_depth() {
    let outside = "expected splits outside the classes";
    for between in ["", "m/", "m/images/", "m/x/y/"] {
        let files = ["train/x/1.png", "train/y/1.png", "test/x/1.png", "test/y/1.png"];
        let mut files = files.map(|file| format!("a/{between}{file}")).to_vec();
        files.extend(["b/1.png".to_string(), "a/other/1.png".to_string()]);
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        rejected(&files, &[outside, &format!("found a/{between}train/, a/{between}test/; if")]);
    }
    let two = ["a/m/train/x/1.png", "a/m/test/x/1.png", "b/m/train/x/1.png", "b/m/test/x/1.png"];
    rejected(&two, &[outside, "a/m/train/, a/m/test/, b/m/train/, b/m/test/; if"]);
    rejected(&["a/m/train/x/1.png", "a/m/train/y/1.png", "b/1.png"], &[outside, "found a/m/train/; if"]);
    rejected(&["a/m/train/1.png", "a/m/test/1.png", "b/1.png"], &[outside, "found a/m/train/, a/m/test/; if"]);
    let in_split = ["train/a/m/train/1.png", "train/a/m/test/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png"];
    rejected(&in_split, &[outside, "found train/a/m/train/, train/a/m/test/; if"]);
}

#[test]
fn classes_in_several_folders_are_reported() {
    let outer = "the class of pictures in subfolders is the outer folder: ";
    let files = ["animals/m/in/cat/1.png", "animals/m/in/dog/1.png", "extra/1.png"];
    assert_eq!(notes(&files)[0], format!("{outer}animals/m/in/cat/, animals/m/in/dog/"));
    let files = ["train/animal/cat/1.png", "train/animal/dog/1.png", "train/car/1.png", "test/animal/1.png"];
    let files = [&files[..], &["test/car/1.png"]].concat();
    assert_eq!(notes(&files)[1], format!("{outer}train/animal/cat/, train/animal/dog/"));
    assert_eq!(notes(&["a/x/1.png", "a/x/2.png", "b/1.png"]).len(), 1);
}

#[test]
fn folders_that_are_no_classes_are_rejected() {
    let flat = "found pictures without classes in";
    let set = ["dataset/dew/1.png", "dataset/fog/1.png"];
    for beside in ["test", "Test Images", "extra"] {
        let beside_set = format!("{beside}/1.png");
        rejected(&[set[0], set[1], &beside_set], &[&format!("{flat} {beside}/ (1)"), "dataset alone: every fifth"]);
    }
    rejected(&["data/m/images/cat/1.png", "data/m/images/dog/1.png", "x/1.png"], &["x/ (1)", "data/m/images alone"]);
    for split in ["test_images", "Test Set", "train-data"] {
        let files = ["cat/1.png", "dog/1.png", &format!("{split}/1.png")];
        rejected(&files, &[&format!("found {split}/, which is called like a split")]);
    }
    for folders in [
        &["JPEGImages", "SegmentationClass", "SegmentationObject"][..],
        &["images", "annotations/trimaps"],
        &["Annotation", "PNGImages", "PedMasks"],
        &["img", "ground_truth"],
        &["images_001/images", "images_002/images"],
        &["HAM10000_images_part_1", "HAM10000_images_part_2"],
        &["batch1", "batch2", "batch3"],
        &["train/images", "train/masks", "test/images", "test/masks"],
    ] {
        let files: Vec<String> = folders.iter().map(|folder| format!("{folder}/1.png")).collect();
        let mut files: Vec<&str> = files.iter().map(String::as_str).collect();
        files.push("metadata.csv");
        rejected(&files, &[flat, "labels in a table (.csv) are not read"]);
    }
    for classes in [["mask", "no_mask"], ["Sample001", "Sample002"], ["1", "2"], ["n01440764", "n01443537"]] {
        let files = classes.map(|class| [format!("{class}/1.png"), format!("{class}/2.png")]).concat();
        assert_eq!(notes(&files.iter().map(String::as_str).collect::<Vec<_>>()).len(), 1, "{classes:?}");
    }
}

#[test]
fn the_only_folder_of_pictures_is_named_whole() {
    for folder in ["k", "k/k", "celeba/img_align/img_align"] {
        let files = [format!("{folder}/1.png"), format!("{folder}/2.png")];
        rejected(&[&files[0], &files[1]], &[&format!("found pictures without classes in {folder}/ (2)")]);
    }
}

#[test]
fn splits_without_pictures_are_named() {
    let files = ["test/a/1.png", "test/b/1.png", "train/a/1.heic"];
    rejected(&files, &["found only test/, and no ", "images in train/ (1 file left out", ".heic 1"]);
    let files = ["train/a/1.png", "train/b/1.png", "test/a/1.txt"];
    rejected(&files, &["found only train/, and no ", "images in test/ (1 file left out", "every fifth"]);
    let expected = "train: train/, 2 classes; test: val/ (not test/: expected folders of pictures in a folder called like \
                    train/)";
    let mut files = vec!["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png", "test/1.png"];
    assert_eq!(notes(&files)[0], expected);
    files[4] = "test/a/1.txt";
    assert_eq!(notes(&files)[0], expected);
}

#[test]
fn classes_beside_two_splits_without_classes_are_named() {
    let renamed = "if they are classes as bus/, rename one of them, for example to class_train/";
    rejected(&["train/1.png", "test/1.png", "bus/1.png"], &["in test/ (1) and train/ (1)", renamed]);
    let files = ["class_train/1.png", "class_train/2.png", "test/1.png", "bus/1.png"];
    assert_eq!(Files::new("renamed", &files).found().classes(), ["bus", "class_train", "test"]);
}

#[test]
fn splits_have_the_same_classes() {
    let files = Files::new("same", &["train/a/1.png", "train/b/1.png", "test/a/1.png"]);
    let message = files.refused();
    assert!(message.ends_with("expected the same classes in train/ and test/; only in train/: b"), "{message}");
    files.add("test/b/1.png");
    files.add("valid/b/1.png");
    files.add("valid/c/1.png");
    let message = files.refused();
    assert!(message.ends_with("in train/ and valid/; only in train/: a; only in valid/: c"), "{message}");
}

#[cfg(unix)]
#[test]
fn names_that_are_not_text_stay_apart() {
    use std::os::unix::ffi::OsStrExt as _;
    let files = Files::new("bytes", &[]);
    for name in [&b"caf\xe9"[..], b"caf\xe8"] {
        let folder = files.0.join(std::ffi::OsStr::from_bytes(name));
        // Some file systems reject such names.
        if fs::create_dir(&folder).is_err() {
            return;
        }
        fs::write(folder.join("1.png"), "").unwrap();
        fs::write(folder.join("2.png"), "").unwrap();
    }
    assert_eq!(files.found().classes(), ["caf\\xE8", "caf\\xE9"]);
    files.add("caf\\xE9/1.png");
    assert!(files.refused().contains("caf\\xE9 twice"), "{}", files.refused());
}

#[cfg(unix)]
#[test]
fn links_that_lead_back_are_rejected() {
    let files = Files::new("links", &["a/1.png", "b/1.png"]);
    std::os::unix::fs::symlink(&files.0, files.0.join("b/up")).unwrap();
    assert!(files.refused().contains("b/up: a link leads back to"), "{}", files.refused());
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_left_out() {
    let files = Files::new("special", &["a/1.png", "a/2.png", "b/1.png"]);
    std::os::unix::fs::symlink("/dev/null", files.0.join("a/device.png")).unwrap();
    std::os::unix::net::UnixListener::bind(files.0.join("b/socket.png")).unwrap();
    let found = files.found();
    assert_eq!((found.train.len(), found.test.len()), (2, 1));
    assert!(found.notes()[1].ends_with(": pipe or device 2"), "{:?}", found.notes());
}

#[test]
fn classes_take_turns_and_what_is_held_out_is_left_out_before() {
    let files = ["b/x/9.png", "b/1.png", "a/1.png", "c/1.png", "c/2.png", "c/3.png", "c/4.png", "c/5.png", "c/6.png"];
    let files = Files::new("turns", &files);
    let found = files.found();
    assert_eq!(found.classes(), ["a", "b", "c"]);
    // Of b the last of two, of c the fifth; a has only one.
    let train = ["a/1.png 0", "b/1.png 1", "c/1.png 2", "c/2.png 2", "c/3.png 2", "c/4.png 2", "c/6.png 2"];
    assert_eq!(files.names(&found.train), train);
    assert_eq!(files.names(&found.test), ["b/x/9.png 1", "c/5.png 2"]);
    files.add("a/2.png");
    files.add("a/3.png");
    assert_eq!(files.names(&files.found().train)[..4], ["a/1.png 0", "b/1.png 1", "c/1.png 2", "a/2.png 0"]);
}

#[test]
fn a_class_may_be_called_train() {
    let files = ["train/1.png", "train/steam/2.png", "plane/1.png", "plane/jet/2.png"];
    let files = Files::new("train", &files);
    assert_eq!(files.found().classes(), ["plane", "train"]);
}

#[test]
fn one_picture_of_each_class_leaves_nothing_to_test_on() {
    let files = Files::new("one", &["a/1.png", "b/1.png"]);
    assert!(files.refused().contains("expected at least two images of some class"), "{}", files.refused());
}

#[test]
fn folders_in_folders_have_an_end() {
    let deep = |depth: usize| format!("a/{}x.png", "in/".repeat(depth));
    let files = Files::new("deep", &[&deep(MOST_DEPTH - 1), "a/1.png", "b/1.png"]);
    assert_eq!(files.found().train.len(), 2);
    files.add(&deep(MOST_DEPTH));
    assert!(files.refused().contains("expected at most 16 nested folders"), "{}", files.refused());
}

#[test]
fn labels_are_wider_than_bytes() {
    let files = Files::new("many", &["000/extra.png"]);
    (0..300).for_each(|class| files.add(&format!("{class:03}/1.png")));
    let found = files.found();
    assert_eq!(found.classes().len(), 300);
    assert_eq!(files.names(&found.train).last().unwrap(), "299/1.png 299");
}

#[test]
fn ten_broken_pictures_are_named() {
    let files = Files::new("broken", &[]);
    (0..12).for_each(|i| files.add(&format!("a/{i:02}.png")));
    (0..2).for_each(|i| files.add(&format!("b/{i:02}.png")));
    let pixels = ndarray::Array3::zeros((4, 4, 3));
    picture::write_png(&files.0.join("b/00.png"), pixels.view()).unwrap();
    let message = files.found().load(4, 1000).unwrap_err().to_string();
    assert!(message.contains("13 of 14 images cannot be read") && message.ends_with("\n  and 3 more"), "{message}");
    assert_eq!(message.matches("found an empty file").count(), 10, "{message}");
}

/// Cut from a larger picture, in memory and decoded when used.
#[test]
fn pictures_are_cut_as_requested_wherever_they_are_kept() {
    let files = Files::new("framing", &[]);
    for (k, name) in ["a/1.png", "a/2.png", "b/1.png", "b/2.png"].into_iter().enumerate() {
        let pixels = ndarray::Array3::from_shape_fn((9, 7, 3), |(i, j, c)| (31 * k + 40 * i + 11 * j + c) as u8);
        files.add(name);
        picture::write_png(&files.0.join(name), pixels.view()).unwrap();
    }
    let framing = Framing { resize: 6, crop: 4 };
    let expected = picture::read(&files.0.join("b/1.png"), framing).unwrap();
    assert_ne!(expected, picture::read(&files.0.join("b/1.png"), 4).unwrap());
    for memory in [0, 1000] {
        let train = files.found().load(framing, memory).unwrap().train;
        assert_eq!(train.in_memory(), if memory == 0 { 0 } else { 2 });
        assert_eq!(&train.images(&[1]).unwrap()[0][..], expected.as_slice().unwrap());
    }
}
