//! Folders that are classes, and folders with pictures that are none.

use super::{Layout, named, pair};
use crate::Result;
use crate::data::folder::messages::{Places, shortened};
use crate::data::folder::role::{Role, is_annotation, is_generic, is_only_split, is_rather_split, part_of};
use crate::data::folder::tree::Folder;
use std::collections::BTreeSet;

/// The layout if every folder in `root` is a class.
pub fn layout<'a>(places: &Places, root: &'a Folder) -> Result<Layout<'a>> {
    let filled = root.filled();
    if filled.is_empty() {
        return Err(places.without_classes(&[root], None));
    }
    if let [only] = filled[..]
        && opened(only).filled().len() < 2
    {
        return Err(places.without_classes(&[opened(only)], None));
    }
    // Beside a single other class it is one, `control` and `test`, and so it is beside a renamed one, `class_train`.
    let is_renamed = named(root).iter().any(|split| split.is(Role::Train) && !split.others.is_empty());
    let (splits, others): (Vec<&Folder>, Vec<&Folder>) =
        filled.iter().partition(|folder| is_rather_split(&folder.name()));
    if let (Some(split), 2.., false) = (splits.first(), others.len(), is_renamed) {
        return Err(places.error(is_called_like_a_split(places, split)));
    }
    let mut notes = Vec::new();
    if !std::ptr::eq(root, places.top) {
        notes.push(format!("the data set is in {}", places.of(root)));
    }
    let called: Vec<String> = named(root).iter().map(|split| places.of(split.folder)).collect();
    if !called.is_empty() {
        notes.push(format!("read as classes, because no other split is beside them: {}", shortened(&called)));
    }
    Ok(Layout { train: root, validation: None, test: None, notes })
}

/// Rejects `folder` if folders in it cannot be classes.
pub fn check(places: &Places, folder: &Folder) -> Result<()> {
    let filled = folder.filled();
    let doubts = [splits_inside, second_copy, inner_classes];
    if let Some(message) = doubts.iter().find_map(|doubt| doubt(places, &filled)) {
        return Err(places.error(message));
    }
    let (sets, others): (Vec<&Folder>, Vec<&Folder>) =
        filled.iter().partition(|folder| is_generic(&folder.name()) && opened(folder).filled().len() > 1);
    match sets[..] {
        [set] if !others.is_empty() => Err(places.without_classes(&others, Some(opened(set)))),
        _ if are_no_classes(&filled) => Err(places.without_classes(&filled, None)),
        _ => called_like_a_split(places, &filled).map_or(Ok(()), |message| Err(places.error(message))),
    }
}

/// Whether the names say that the folders are parts of one set, or pictures and their annotations.
fn are_no_classes(folders: &[&Folder]) -> bool {
    let all = |holds: &dyn Fn(&str) -> bool| folders.iter().all(|folder| holds(&folder.name()));
    let any = |holds: &dyn Fn(&str) -> bool| folders.iter().any(|folder| holds(&folder.name()));
    let annotated = all(&|name| is_generic(name) || is_annotation(name)) && any(&is_generic) && any(&is_annotation);
    let part = folders.first().and_then(|folder| part_of(&folder.name()));
    annotated || folders.len() > 1 && part.is_some() && all(&|name| part_of(name) == part)
}

/// A note about classes whose pictures are in several folders.
pub fn nested(places: &Places, read: &[&Folder]) -> Option<String> {
    let classes = read.iter().flat_map(|folder| folder.filled());
    let nested = classes.filter(|class| class.pictures.is_empty()).flat_map(|class| match opened(class).filled() {
        inner if inner.is_empty() => vec![opened(class)],
        inner => inner,
    });
    let nested: Vec<String> = nested.map(|folder| places.of(folder)).collect();
    let note = format!("the class of pictures in subfolders is the outer folder: {}", shortened(&nested));
    (nested.len() > 1).then_some(note)
}

/// `folder`, or the only folder with pictures in it, and so on.
fn opened(folder: &Folder) -> &Folder {
    match folder.filled()[..] {
        [only] if folder.pictures.is_empty() => opened(only),
        _ => folder,
    }
}

/// A message if there are splits inside classes.
fn splits_inside(places: &Places, classes: &[&Folder]) -> Option<String> {
    let inside: Vec<String> =
        classes.iter().flat_map(|class| splits_in(class)).map(|folder| places.of(folder)).collect();
    let message = format!(
        "expected splits outside the classes (train/CLASS/ and test/CLASS/), found {}; if a folder contains a whole data \
         set, give that folder",
        shortened(&inside)
    );
    (!inside.is_empty()).then_some(message)
}

/// The outermost splits inside `folder`.
fn splits_in(folder: &Folder) -> Vec<&Folder> {
    if let Some(pair) = pair(folder) {
        return pair.to_vec();
    }
    match named(folder).iter().find(|split| split.classes.is_some() && split.others.is_empty()) {
        Some(split) => vec![split.folder],
        None => folder.filled().into_iter().flat_map(splits_in).collect(),
    }
}

/// A message if a class contains folders with the names of the other classes, at any depth: the data set a second time.
fn second_copy(places: &Places, classes: &[&Folder]) -> Option<String> {
    let names = |folders: &[&Folder]| folders.iter().map(|folder| folder.name().to_lowercase()).collect();
    let all: BTreeSet<String> = names(classes);
    for class in classes {
        let own = class.name().to_lowercase();
        for inner in class.and_below() {
            let mut shared = &names(&inner.filled()) & &all;
            shared.remove(&own);
            if shared.len() > 1 || shared.len() + 1 == all.len() && all.len() > 1 {
                let shared: Vec<String> = shared.into_iter().collect();
                return Some(format!(
                    "expected a folder for each class, found {}, which contains folders with the names of those beside {} \
                     ({}): if it is a second copy of the data set, give that folder or move it elsewhere; if it is a class, \
                     rename the folders in it",
                    places.of(inner),
                    places.of(class),
                    shortened(&shared)
                ));
            }
        }
    }
    None
}

/// A message if a folder beside classes is called `test_images` or similar.
fn called_like_a_split(places: &Places, classes: &[&Folder]) -> Option<String> {
    let split = classes.iter().find(|folder| is_only_split(&folder.name()))?;
    Some(is_called_like_a_split(places, split))
}

fn is_called_like_a_split(places: &Places, split: &Folder) -> String {
    format!(
        "expected a folder for each class, found {}, which is called like a split: if it is a class, rename it; otherwise \
         move it elsewhere (every fifth image of each class is then held out for testing), or move the classes into a \
         folder train/ beside it and its pictures into a folder for each class",
        places.of(split)
    )
}

/// A message if all `classes` contain folders of the same names: are the outer or the inner ones the classes?
fn inner_classes(places: &Places, classes: &[&Folder]) -> Option<String> {
    if classes.len() < 2 || classes.iter().any(|class| !class.pictures.is_empty()) {
        return None;
    }
    let names = |folder: &Folder| opened(folder).filled().into_iter().map(Folder::name).collect::<BTreeSet<_>>();
    let shared = classes.iter().map(|class| names(class)).reduce(|a, b| &a & &b)?;
    if shared.len() < 2 {
        return None;
    }
    let outer: Vec<String> = classes.iter().map(|class| places.of(class)).collect();
    let shared: Vec<String> = shared.into_iter().collect();
    Some(format!(
        "expected a folder for each class, found {}, which all contain folders of the same names ({}): if the inner \
         folders are the classes, give one of the outer folders, or call them train/ and test/; if the outer folders are, \
         move the pictures out of the inner ones",
        shortened(&outer),
        shortened(&shared)
    ))
}
