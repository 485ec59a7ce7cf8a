//! Where two trees differ, found by their ids: what they share is not read. libgit2 would read all of both.

use std::io;

use git2::{Oid, Repository, Tree};

use super::{forced::is_within, objects::failed};

/// Past so many paths naming them one by one spares nothing.
const MAX_PATHS: usize = 5000;

/// Paths that may differ between two trees.
pub(super) enum Narrowed {
    /// Only these, sorted. All are files: libgit2 loses a directory among names such as "a", "a-b" and "a.b".
    Paths(Vec<Vec<u8>>),
    /// Too many to name.
    Anywhere,
}

/// A directory as either side has it.
type Place = (Vec<u8>, Option<Oid>, Option<Oid>);

/// Finds them, at or below `within` alone if it is given.
pub(super) fn narrow(repository: &Repository, trees: (Oid, Oid), within: Option<&[u8]>) -> io::Result<Narrowed> {
    let mut paths = Vec::new();
    let mut open: Vec<Place> = vec![(Vec::new(), Some(trees.0), Some(trees.1))];
    while let Some((above, old, new)) = open.pop() {
        if old == new {
            continue;
        }
        let tree = |id: Option<Oid>| id.map(|id| repository.find_tree(id).map_err(failed)).transpose();
        let (old, new) = (tree(old)?, tree(new)?);
        let of_new = new.iter().flat_map(Tree::iter);
        let of_new = of_new.filter(|entry| old.as_ref().is_none_or(|old| find(old, entry.name_bytes()).is_none()));
        for entry in old.iter().flat_map(Tree::iter).chain(of_new) {
            let name = entry.name_bytes();
            let path = if above.is_empty() { name.to_vec() } else { [&above, name].join(&b'/') };
            if within.is_some_and(|within| !is_within(&path, within) && !is_within(within, &path)) {
                continue;
            }
            let sides = [&old, &new].map(|tree| tree.as_ref().and_then(|tree| find(tree, name)));
            if sides[0] == sides[1] {
                continue;
            }
            let below = |(id, mode): (Oid, i32)| (mode == i32::from(git2::FileMode::Tree)).then_some(id);
            let dirs = sides.map(|side| side.and_then(below));
            if sides.iter().zip(&dirs).any(|(side, dir)| side.is_some() && dir.is_none()) {
                // What is wanted lies below a directory, and not below a file.
                paths.extend(Some(path.clone()).filter(|path| within.is_none_or(|within| is_within(path, within))));
            }
            if dirs != [None, None] {
                open.push((path, dirs[0], dirs[1]));
            }
        }
        if paths.len() > MAX_PATHS {
            return Ok(Narrowed::Anywhere);
        }
    }
    paths.sort();
    Ok(Narrowed::Paths(paths))
}

/// Id and mode of an entry.
fn find(tree: &Tree<'_>, name: &[u8]) -> Option<(Oid, i32)> {
    let entry = tree.get_name_bytes(name)?;
    Some((entry.id(), entry.filemode_raw()))
}
