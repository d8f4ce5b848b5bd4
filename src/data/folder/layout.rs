//! Which folders are splits and which are classes.
//!
//! Names alone do not decide: a class may be called `train` (CIFAR-100 has one) or `test`. A **split** has the name of one
//! and contains folders of pictures, and another split is beside it whose name differs only in the role: `seg_train/` and
//! `seg_test/`. Every other folder with pictures is a class. What can be read both ways is an error.

mod classes;

use super::messages::{Places, joined, shortened};
use super::role::{Role, is_generic, role};
use super::tree::Folder;
use crate::Result;
use crate::data::picture;
use std::collections::{BTreeMap, BTreeSet};

/// The folders of a data set; each contains one folder per class.
#[derive(Debug)]
pub struct Layout<'a> {
    pub train: &'a Folder,
    pub validation: Option<&'a Folder>,
    /// `None`: a part of the pictures in `train` is held out.
    pub test: Option<&'a Folder>,
    /// What was recognised and what is not read, in words.
    pub notes: Vec<String>,
}

/// A folder that is called like a split.
struct Named<'a> {
    folder: &'a Folder,
    role: Role,
    /// The other words of the name.
    others: String,
    /// The folder that contains the classes; `None` if there are only pictures.
    classes: Option<&'a Folder>,
}

impl Named<'_> {
    fn is(&self, role: Role) -> bool {
        self.role == role
    }
}

impl<'a> Layout<'a> {
    /// The layout of the data set in `top`, which contains pictures somewhere.
    pub fn of(top: &'a Folder) -> Result<Self> {
        let (places, root) = (Places { top }, innermost(top));
        let mut layout = match splits(&places, root)? {
            Some(layout) => layout,
            None => classes::layout(&places, root)?,
        };
        let read: Vec<&Folder> = [Some(layout.train), layout.validation, layout.test].into_iter().flatten().collect();
        read.iter().try_for_each(|folder| classes::check(&places, folder))?;
        layout.notes.extend(classes::nested(&places, &read));
        layout.notes.extend(places.strays(&read));
        Ok(layout)
    }
}

/// `folder`, or the only folder with pictures in it, and so on to the folder where the data set begins.
fn innermost(folder: &Folder) -> &Folder {
    let [only] = folder.filled()[..] else { return folder };
    if only.deeper() < only.pictures.len() {
        return folder;
    }
    let inner = innermost(only);
    let is_split = role(&only.name()).is_some() && pair(inner).is_none();
    if inner.filled().len() < 2 || is_split { folder } else { inner }
}

/// The folders in `folder` that are called like splits.
fn named(folder: &Folder) -> Vec<Named<'_>> {
    let mut named = Vec::new();
    for folder in folder.filled() {
        if let Some((role, others)) = role(&folder.name()) {
            named.push(Named { folder, role, others, classes: of_classes(folder) });
        }
    }
    named
}

/// The folder of classes in a folder that is called like a split: itself, or the only folder in it, and so on; `None` if it
/// has pictures without classes.
fn of_classes(split: &Folder) -> Option<&Folder> {
    if split.deeper() == 0 || split.deeper() < split.pictures.len() {
        return None;
    }
    if let [only] = split.filled()[..] {
        if is_generic(&only.name()) || role(&only.name()).is_some() || only.name() == split.name() {
            return of_classes(only);
        }
        if only.pictures.is_empty() {
            return of_classes(only).filter(|inner| inner.filled().len() > 1).or(Some(split));
        }
    }
    Some(split)
}

/// Two folders in `folder` whose names belong together: one for training, one for another purpose.
fn pair(folder: &Folder) -> Option<[&Folder; 2]> {
    let named = named(folder);
    let trains = named.iter().filter(|split| split.is(Role::Train));
    let mut pairs = trains.flat_map(|train| named.iter().map(move |other| (train, other)));
    let found = pairs.find(|(train, other)| !other.is(Role::Train) && train.others == other.others);
    found.map(|(train, other)| [train.folder, other.folder])
}

/// The layout if there are splits in `root`.
fn splits<'a>(places: &Places, root: &'a Folder) -> Result<Option<Layout<'a>>> {
    let named = named(root);
    let with_classes: Vec<&Named> = named.iter().filter(|split| split.classes.is_some()).collect();
    let is_complete = |group: &Vec<&Named>| {
        let trains = group.iter().filter(|split| split.is(Role::Train)).count();
        trains > 0 && trains < group.len()
    };
    let mut groups: BTreeMap<&str, Vec<&Named>> = BTreeMap::new();
    with_classes.iter().for_each(|&split| groups.entry(&split.others).or_default().push(split));
    let mut groups: Vec<Vec<&Named>> = groups.into_values().filter(is_complete).collect();
    // train_original/ and test/: with the same classes they belong together.
    let classes = |split: &&Named| names(split.classes.expect("with classes"));
    if groups.is_empty()
        && is_complete(&with_classes)
        && with_classes.windows(2).all(|w| classes(&w[0]) == classes(&w[1]))
    {
        groups.push(with_classes.clone());
    }
    match &groups[..] {
        [group] => chosen(places, root, group).map(Some),
        [] => no_splits(places, root, &named).map(|()| None),
        _ => {
            let found = joined(groups.iter().flatten().map(|split| places.of(split.folder)));
            let message = format!("expected one folder of training images and one of test images, found {found}");
            Err(places.error(format!("{message}; give a folder that contains only those to use")))
        }
    }
}

/// The names of the folders in a folder.
fn names(folder: &Folder) -> BTreeSet<String> {
    folder.folders.iter().map(Folder::name).collect()
}

/// The layout of a group of splits.
fn chosen<'a>(places: &Places, root: &'a Folder, group: &[&Named<'a>]) -> Result<Layout<'a>> {
    let one = |role: Role, what: &str| match &group.iter().filter(|split| split.is(role)).collect::<Vec<_>>()[..] {
        [] => Ok(None),
        [one] => Ok(one.classes),
        several => {
            let found = joined(several.iter().map(|split| places.of(split.folder)));
            Err(places
                .error(format!("expected one folder of {what} images, found {found}; rename or remove the others")))
        }
    };
    let train = one(Role::Train, "training")?.expect("a complete group");
    let (validation, test) = (one(Role::Validation, "validation")?, one(Role::Test, "test")?);
    let (validation, test) = match (validation, test, one(Role::Evaluation, "evaluation")?) {
        (validation, None, Some(evaluation)) => (validation, Some(evaluation)),
        (None, test, Some(evaluation)) => (Some(evaluation), test),
        (Some(validation), Some(test), Some(evaluation)) => {
            let found = joined([validation, test, evaluation].into_iter().map(|folder| places.of(folder)));
            return Err(places.error(format!("expected one folder for validation and one for testing, found {found}")));
        }
        (validation, test, None) => (validation, test),
    };
    let only_validation = test.is_none();
    let (validation, test) = if only_validation { (None, validation) } else { (validation, test) };
    let mut recognised = format!("train: {}, {} classes", places.of(train), train.folders.len());
    for (role, folder) in [("validation", validation), ("test", test)] {
        recognised += &folder.map_or(String::new(), |folder| format!("; {role}: {}", places.of(folder)));
    }
    if only_validation {
        let is_test = |folder: &&Folder| matches!(role(&folder.name()), Some((Role::Test | Role::Evaluation, _)));
        let unread: Vec<String> = root.folders.iter().filter(is_test).map(|folder| places.of(folder)).collect();
        recognised += &match &unread[..] {
            [] => " (there is no other folder to test on)".to_string(),
            unread => format!(
                " (not {}: expected folders of pictures in a folder called like {})",
                shortened(unread),
                places.of(train)
            ),
        };
    }
    let mut notes = vec![recognised];
    let is_used = |folder: &&Folder| group.iter().any(|split| std::ptr::eq(split.folder, *folder));
    let without_classes =
        |folder: &Folder| if of_classes(folder).is_none() { " (pictures without classes)" } else { "" };
    let unused = root.filled().into_iter().filter(|folder| !is_used(folder));
    let unused: Vec<String> =
        unused.map(|folder| format!("{}{}", places.of(folder), without_classes(folder))).collect();
    if !unused.is_empty() {
        notes.push(format!("not read: {}", shortened(&unused)));
    }
    Ok(Layout { train, validation, test, notes })
}

/// Rejects folders that are called like splits and cannot be classes either.
fn no_splits(places: &Places, root: &Folder, named: &[Named]) -> Result<()> {
    let plain = |folder: &&Folder| named.iter().any(|s| std::ptr::eq(s.folder, *folder) && s.others.is_empty());
    if pair(root).is_some() || root.filled().iter().all(plain) && named.iter().any(|split| split.classes.is_none()) {
        let without: Vec<&Folder> = named.iter().filter(|s| s.classes.is_none()).map(|s| s.folder).collect();
        let with = named.iter().find(|split| split.is(Role::Train)).and_then(|split| split.classes);
        let beside = root.filled().into_iter().filter(|folder| !named.iter().any(|s| std::ptr::eq(s.folder, *folder)));
        let beside: Vec<String> = beside.map(|folder| places.of(folder)).collect();
        let beside = if with.is_none() { &beside[..] } else { &[] };
        return Err(places.without_classes_beside(&without, with, beside));
    }
    let alone: Vec<String> = named
        .iter()
        .filter(|split| split.classes.is_some() && split.folder.pictures.is_empty())
        .map(|split| places.of(split.folder))
        .collect();
    if alone.is_empty() {
        return Ok(());
    }
    let empty = root.folders.iter().filter(|folder| folder.count == 0 && role(&folder.name()).is_some());
    let empty: Vec<String> = empty.map(|folder| places.of(folder)).collect();
    let empty = match &empty[..] {
        [] => String::new(),
        empty => format!(", and no {} images in {}{}", picture::KINDS, shortened(empty), places.left_out()),
    };
    Err(places.error(format!(
        "expected train/ and test/ (or val/) with a folder for each class, found only {}{empty}; to hold every fifth image \
         of a class out for testing, give the folder that contains the classes; if the name is that of a class, move its \
         pictures out of its subfolders",
        shortened(&alone)
    )))
}
