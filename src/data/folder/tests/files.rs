//! Names, links and pictures; their order, labels and pixels.

use super::*;

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
