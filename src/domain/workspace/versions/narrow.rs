//! Where two trees differ, found by their ids: what they share is not read. libgit2 would read all of both.

use std::io;

use git2::{ObjectType, Oid, Repository, Tree};

use super::{forced::is_within, objects::failed};

/// Past so many paths naming them one by one spares nothing.
const MAX_PATHS: usize = 5000;

/// Paths that may differ between two trees.
pub(super) enum Narrowed {
    /// Only these, sorted; a directory stands for all that is below it.
    Paths(Vec<Vec<u8>>),
    /// Too many to name.
    Anywhere,
}

/// Finds them, at or below `within` alone if it is given.
pub(super) fn narrow(repository: &Repository, trees: (Oid, Oid), within: Option<&[u8]>) -> io::Result<Narrowed> {
    let mut paths = Vec::new();
    let mut open = if trees.0 == trees.1 { Vec::new() } else { vec![(Vec::new(), trees.0, trees.1)] };
    while let Some((above, old, new)) = open.pop() {
        let (old, new) = (repository.find_tree(old).map_err(failed)?, repository.find_tree(new).map_err(failed)?);
        let path = |name: &[u8]| if above.is_empty() { name.to_vec() } else { [&above, name].join(&b'/') };
        let is_wanted = |path: &[u8]| within.is_none_or(|within| is_within(path, within) || is_within(within, path));
        for entry in &old {
            let name = entry.name_bytes();
            let Some((other, mode)) = find(&new, name) else {
                paths.extend(Some(path(name)).filter(|path| is_wanted(path)));
                continue;
            };
            if other == entry.id() && mode == entry.filemode_raw() {
                continue;
            }
            let path = path(name);
            if !is_wanted(&path) {
                continue;
            }
            let tree = i32::from(git2::FileMode::Tree);
            if entry.kind() == Some(ObjectType::Tree) && mode == tree {
                open.push((path, entry.id(), other));
            } else {
                paths.push(path);
            }
        }
        for entry in &new {
            if find(&old, entry.name_bytes()).is_none() {
                paths.extend(Some(path(entry.name_bytes())).filter(|path| is_wanted(path)));
            }
        }
        if paths.len() > MAX_PATHS {
            return Ok(Narrowed::Anywhere);
        }
    }
    if let Some(within) = within {
        // A directory that is on one side alone, above what is wanted.
        for path in paths.iter_mut().filter(|path| path.len() < within.len()) {
            *path = within.to_vec();
        }
    }
    paths.sort();
    paths.dedup();
    Ok(Narrowed::Paths(paths))
}

/// Id and mode of an entry.
fn find(tree: &Tree<'_>, name: &[u8]) -> Option<(Oid, i32)> {
    let entry = tree.get_name_bytes(name)?;
    Some((entry.id(), entry.filemode_raw()))
}
