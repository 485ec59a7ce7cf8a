//! Changes of all kinds, drawn by a seed.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt, fs::symlink},
    path::{Path, PathBuf},
};

/// Numbers that look random and are the same for the same seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678)
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    pub fn one<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }

    fn some<'a>(&mut self, list: &'a [PathBuf]) -> Option<&'a PathBuf> {
        if list.is_empty() { None } else { Some(&list[self.below(list.len())]) }
    }
}

/// Bytes that no compression makes fewer.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    (0..bytes).map(|_| dice.below(256) as u8).collect()
}

const NAMES: [&[u8]; 18] = [
    b"a",
    b"b",
    b"c.txt",
    b"d.rs",
    b"two words",
    b"q\"uote",
    "\u{fc}n\u{ef}".as_bytes(),
    b"new\nline",
    b"\xff\xfe.bin",
    b"tab\there",
    b"back\\slash",
    b"-dash",
    b" lead",
    b"trail ",
    b"a.b",
    b"a-b",
    b"x.log",
    b"'single'",
];

/// One change of the workspace, whichever the dice say; one that cannot be done is none. `outside` is a folder beside it.
pub fn change(dice: &mut Dice, workspace: &Path, outside: &Path) {
    let (files, dirs) = list(workspace);
    // What cannot be done, such as moving a directory into itself, leaves everything as it is.
    let _: io::Result<()> = (|| {
        match dice.below(18) {
            0..=3 => put(&place(dice, workspace, &dirs), &content(dice)),
            4 | 5 => match dice.some(&files) {
                Some(file) if file.is_symlink() => put(file, &content(dice)),
                Some(file) => fs::write(file, edited(dice, fs::read(file)?)),
                None => Ok(()),
            },
            6 => dice.some(&files).map_or(Ok(()), fs::remove_file),
            7 => match dice.some(&files).cloned() {
                Some(file) => move_to(&file, &place(dice, workspace, &dirs)),
                None => Ok(()),
            },
            8 => match dice.some(&files).filter(|file| !file.is_symlink()) {
                Some(file) => {
                    let mode = fs::metadata(file)?.permissions().mode();
                    fs::set_permissions(file, fs::Permissions::from_mode(mode ^ 0o111))
                }
                None => Ok(()),
            },
            // A file becomes a link, or a link a file.
            9 => match dice.some(&files).cloned() {
                Some(file) if file.is_symlink() => put(&file, &content(dice)),
                Some(file) => link(dice, &file),
                None => Ok(()),
            },
            10 => {
                let place = place(dice, workspace, &dirs);
                link(dice, &place)
            }
            // A file becomes a directory.
            11 => match dice.some(&files).cloned() {
                Some(file) => put(&file.join(OsStr::from_bytes(dice.one(&NAMES))), &content(dice)),
                None => Ok(()),
            },
            // A directory becomes a file.
            12 => match dice.some(&dirs) {
                Some(dir) => {
                    fs::remove_dir_all(dir)?;
                    put(dir, &content(dice))
                }
                None => Ok(()),
            },
            13 => match dice.some(&dirs).cloned() {
                Some(dir) => move_to(&dir, &place(dice, workspace, &dirs)),
                None => Ok(()),
            },
            14 => dice.some(&dirs).map_or(Ok(()), fs::remove_dir_all),
            // Two directories change their places.
            15 => match (dice.some(&dirs), dice.some(&dirs)) {
                (Some(one), Some(other)) => {
                    let aside = workspace.join("aside");
                    fs::rename(one, &aside)?;
                    let moved = fs::rename(other, one);
                    fs::rename(&aside, if moved.is_ok() { other } else { one })
                }
                _ => Ok(()),
            },
            // Out of the workspace, and something else in.
            16 => match dice.some(&dirs) {
                Some(dir) => {
                    fs::rename(dir, outside.join(format!("out{}", dice.below(1_000_000_000))))?;
                    let source = outside.join("source");
                    put(&source.join(OsStr::from_bytes(dice.one(&NAMES))), &content(dice))?;
                    put(&source.join("deep").join(OsStr::from_bytes(dice.one(&NAMES))), &content(dice))?;
                    fs::rename(source, dir)
                }
                None => Ok(()),
            },
            _ => match dice.some(&files).filter(|file| !file.is_symlink()) {
                Some(file) => fs::write(file, b""),
                None => Ok(()),
            },
        }
    })();
}

/// Files and links, and directories, below the workspace.
fn list(workspace: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut files, mut dirs, mut open) = (Vec::new(), Vec::new(), vec![workspace.to_owned()]);
    while let Some(dir) = open.pop() {
        let mut entries: Vec<_> = fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry")).collect();
        // The order of a directory is not the dice's.
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if entry.file_name() == ".git" || entry.file_name() == ".gitignore" {
            } else if entry.file_type().expect("a type").is_dir() {
                dirs.push(entry.path());
                open.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    (files, dirs)
}

fn place(dice: &mut Dice, workspace: &Path, dirs: &[PathBuf]) -> PathBuf {
    let mut path = match dice.some(dirs) {
        Some(dir) if dice.below(3) > 0 => dir.clone(),
        _ => workspace.to_owned(),
    };
    for _ in 0..dice.below(3) {
        path.push(OsStr::from_bytes(dice.one(&NAMES)));
    }
    path.join(OsStr::from_bytes(dice.one(&NAMES)))
}

/// Puts a file there, whatever is in its way.
fn put(path: &Path, content: &[u8]) -> io::Result<()> {
    make_room(path)?;
    fs::write(path, content)
}

fn link(dice: &mut Dice, path: &Path) -> io::Result<()> {
    make_room(path)?;
    symlink(dice.one(&["a", "../b", "nowhere at all", "/etc/hostname", "new\nline"]), path)
}

fn move_to(from: &Path, to: &Path) -> io::Result<()> {
    if to.starts_with(from) || from.starts_with(to) {
        return Ok(());
    }
    make_room(to)?;
    fs::rename(from, to)
}

fn make_room(path: &Path) -> io::Result<()> {
    if let Some(above) = path.parent() {
        if fs::symlink_metadata(above).is_ok_and(|data| !data.is_dir()) {
            fs::remove_file(above)?;
        }
        if fs::symlink_metadata(above).is_err() {
            make_room(above)?;
            fs::create_dir(above)?;
        }
    }
    match fs::symlink_metadata(path) {
        Ok(data) if data.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

fn content(dice: &mut Dice) -> Vec<u8> {
    let lines = |dice: &mut Dice, end: &str| -> Vec<u8> {
        let count = 1 + dice.below(60);
        (0..count).flat_map(|line| format!("line {line} of {}{end}", dice.below(5)).into_bytes()).collect()
    };
    match dice.below(8) {
        0 => Vec::new(),
        1 => lines(dice, "\r\n"),
        2 => [lines(dice, "\n"), b"no end".to_vec()].concat(),
        3 => (0..dice.below(3000)).map(|_| dice.below(256) as u8).collect(),
        4 => [lines(dice, "\n"), b"caf\xe9\n".to_vec()].concat(),
        5 => [b"same for all\n".repeat(30), lines(dice, "\n")].concat(),
        _ => lines(dice, "\n"),
    }
}

fn edited(dice: &mut Dice, mut old: Vec<u8>) -> Vec<u8> {
    let at = dice.below(old.len() + 1);
    match dice.below(4) {
        0 => old.truncate(at),
        1 => old.extend(content(dice)),
        2 => drop(old.splice(at..at, *b"inserted\nhere")),
        _ => {
            // As long as it was.
            if let Some(byte) = old.get_mut(at) {
                *byte = byte.wrapping_add(1);
            }
        }
    }
    old
}
