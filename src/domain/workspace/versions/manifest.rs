//! What the workspace held when it was last looked at: each file with its figures and the id of its content, in
//! directories that are shared between one look and the next. It spares reading what is unchanged; losing it costs time
//! and nothing else.

use std::sync::Arc;

use git2::Oid;
use rustix::fs::{FileType, Stat};

use super::super::figures::Figures;

/// Name of a file or directory, as bytes: it need not be UTF-8.
pub(super) type Name = Box<[u8]>;

/// A directory and all that is below it and belongs to a version.
#[derive(Clone, Debug, Default)]
pub(super) struct Dir {
    /// Sorted by name.
    pub entries: Vec<(Name, Node)>,
    /// Its tree in the object store; none where it holds no file.
    pub tree: Option<Oid>,
}

#[derive(Clone, Debug)]
pub(super) enum Node {
    Dir(Arc<Dir>),
    File(File),
}

/// A file or link.
#[derive(Clone, Copy, Debug)]
pub(super) struct File {
    /// Git's id of its content, as raw bytes.
    pub oid: Oid,
    pub kind: Kind,
    pub figures: Figures,
    /// Written so shortly before it was read that a later write may leave its figures as they are: read it again.
    pub racy: bool,
    /// Its content is in the user's own repository, and was not read here.
    pub seeded: bool,
}

/// What git tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    Executable,
    Link,
}

impl File {
    /// Whether these figures say that it is as it was.
    pub(super) fn is_as(&self, stat: &Stat) -> bool {
        !self.racy && self.figures == Figures::of(stat) && Kind::of(stat) == Some(self.kind)
    }
}

impl Kind {
    /// None for what is in no version: directories, pipes, sockets, devices.
    pub(super) fn of(stat: &Stat) -> Option<Self> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if stat.st_mode & 0o100 != 0 => Some(Self::Executable),
            FileType::RegularFile => Some(Self::Plain),
            FileType::Symlink => Some(Self::Link),
            _ => None,
        }
    }

    /// As it stands in a tree.
    pub(super) fn mode(self) -> &'static str {
        match self {
            Self::Plain => "100644",
            Self::Executable => "100755",
            Self::Link => "120000",
        }
    }
}

impl Dir {
    pub(super) fn get(&self, name: &[u8]) -> Option<&Node> {
        self.place(name).map(|(_, node)| node)
    }

    /// An entry, with its name as it is kept here.
    pub(super) fn place(&self, name: &[u8]) -> Option<(&[u8], &Node)> {
        let place = self.entries.binary_search_by(|(own, _)| own.as_ref().cmp(name)).ok()?;
        let (name, node) = &self.entries[place];
        Some((name, node))
    }

    /// The file at a path below.
    pub(super) fn file(&self, path: &[u8]) -> Option<&File> {
        let mut here = self;
        let mut parts = path.split(|byte| *byte == b'/').peekable();
        while let Some(name) = parts.next() {
            match (here.get(name)?, parts.peek().is_some()) {
                (Node::Dir(dir), true) => here = dir,
                (Node::File(file), false) => return Some(file),
                (Node::Dir(_), false) | (Node::File(_), true) => return None,
            }
        }
        None
    }

    /// Whether anything is at a path or below it.
    pub(super) fn holds(&self, path: &[u8]) -> bool {
        let mut here = self;
        let mut parts = path.split(|byte| *byte == b'/').peekable();
        while let Some(name) = parts.next() {
            match (here.get(name), parts.peek().is_some()) {
                (Some(Node::Dir(dir)), true) => here = dir,
                (Some(_), false) => return true,
                (Some(Node::File(_)) | None, _) => return false,
            }
        }
        false
    }

    /// Puts a file at a path, or takes away what is there. The trees on the way are to be made anew.
    pub(super) fn put(&mut self, path: &[u8], file: Option<File>) {
        self.tree = None;
        let (name, rest) = match path.iter().position(|byte| *byte == b'/') {
            Some(end) => (&path[..end], Some(&path[end + 1..])),
            None => (path, None),
        };
        let place = self.entries.binary_search_by(|(own, _)| own.as_ref().cmp(name));
        match (rest, file) {
            (None, Some(file)) => self.set(place, name, Node::File(file)),
            (None, None) => {
                if let Ok(place) = place {
                    self.entries.remove(place);
                }
            }
            (Some(rest), file) => {
                let mut below = match place.ok().map(|place| &self.entries[place].1) {
                    Some(Node::Dir(dir)) => Dir::clone(dir),
                    // Nothing lies below a file.
                    Some(Node::File(_)) | None if file.is_none() => return,
                    Some(Node::File(_)) | None => Dir::default(),
                };
                below.put(rest, file);
                if below.entries.is_empty() {
                    if let Ok(place) = place {
                        self.entries.remove(place);
                    }
                } else {
                    self.set(place, name, Node::Dir(Arc::new(below)));
                }
            }
        }
    }

    fn set(&mut self, place: Result<usize, usize>, name: &[u8], node: Node) {
        match place {
            Ok(place) => self.entries[place].1 = node,
            Err(place) => self.entries.insert(place, (name.into(), node)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A file that is another one for each seed.
    pub(in super::super) fn file(seed: u8) -> File {
        let figures = Figures { size: 1, mtime: -2, ctime: 3, inode: u64::from(seed) };
        let oid = Oid::from_bytes(&[seed; 20]).unwrap();
        File { oid, kind: Kind::Executable, figures, racy: seed & 1 == 0, seeded: seed == 3 || seed == 6 }
    }

    #[test]
    fn files_are_put_and_taken_away_at_any_depth() {
        let mut root = Dir::default();
        root.put(b"a/b/c", Some(file(1)));
        root.put(b"a/d", Some(file(2)));
        assert!(root.file(b"a/b/c").is_some() && root.file(b"a/b").is_none() && root.holds(b"a/b"));
        root.put(b"a/b/c", None);
        assert!(!root.holds(b"a/b") && root.holds(b"a/d"));
        root.put(b"a", Some(file(3)));
        assert!(root.file(b"a").is_some() && !root.holds(b"a/d"));
        root.put(b"a/x/y", None);
        assert!(root.file(b"a").is_some());
    }
}
