//! Folders as git sees them: the `git` command line, and what a folder holds.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What a folder holds: mode and content by path, as git has them.
pub type Tree = BTreeMap<Vec<u8>, (u32, Vec<u8>)>;

/// Git in this folder, with nobody's settings.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new("git");
    command.current_dir(folder).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    command.env("GIT_CEILING_DIRECTORIES", folder.parent().unwrap_or(folder)).stdin(Stdio::null());
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "Somebody").env(format!("GIT_{role}_EMAIL"), "somebody@example.org");
    }
    command.args(["-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main", "-c", "safe.directory=*"]);
    command
}

/// What git says, which has to succeed.
#[track_caller]
pub fn git(folder: &Path, args: &[&str]) -> Vec<u8> {
    said(command(folder).args(args))
}

#[track_caller]
pub fn said(command: &mut Command) -> Vec<u8> {
    let output = command.output().expect("git runs");
    assert!(output.status.success(), "{}\n{command:?}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The tree that git makes of the workspace, with its ignore rules, seen without any index.
pub fn tree_id(workspace: &Path, scratch: &Path) -> String {
    let run = |args: &[&str]| {
        let mut command = command(workspace);
        command.env("GIT_DIR", scratch).env("GIT_WORK_TREE", workspace);
        said(command.args(["-c", "core.autocrlf=false", "-c", "core.safecrlf=false"]).args(args))
    };
    if !scratch.exists() {
        run(&["init", "-q"]);
    }
    // What an index remembers could be wrong about a file that changed within a tick of the clock.
    let _ = fs::remove_file(scratch.join("index"));
    run(&["add", "-A"]);
    String::from_utf8(run(&["write-tree"])).expect("an id").trim().to_owned()
}

/// Everything in a folder but `.git` at its top.
pub fn tree(folder: &Path) -> Tree {
    let mut found = Tree::new();
    gather(folder, folder, &mut found);
    found
}

fn gather(top: &Path, folder: &Path, found: &mut Tree) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let data = fs::symlink_metadata(&path).expect("a file");
        let name = path.strip_prefix(top).expect("below").as_os_str().as_bytes().to_vec();
        if name == b".git" {
        } else if data.is_dir() {
            gather(top, &path, found);
        } else if data.is_symlink() {
            let target = fs::read_link(&path).expect("a link").into_os_string().as_bytes().to_vec();
            found.insert(name, (0o120_000, target));
        } else if data.is_file() {
            let mode = if data.permissions().mode() & 0o100 == 0 { 0o100_644 } else { 0o100_755 };
            found.insert(name, (mode, fs::read(&path).expect("a file")));
        }
    }
}

/// Every file of a folder to the byte, with its mode and the time of its last change.
pub fn bytes_of(folder: &Path) -> BTreeMap<PathBuf, (i64, i64, u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        let data = fs::symlink_metadata(&path).expect("a file");
        let content = if data.is_file() { fs::read(&path).expect("a file") } else { Vec::new() };
        if data.is_dir() {
            open.extend(fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").path()));
        }
        found.insert(path, (data.mtime(), data.mtime_nsec(), data.mode(), content));
    }
    found
}

/// A copy with everything in it: links as links, modes as they are.
pub fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(status.success());
}

/// Says where two folders differ, if they do.
#[track_caller]
pub fn assert_same_tree(found: &Tree, expected: &Tree, what: &str) {
    for (path, side) in expected {
        let shown = OsStr::from_bytes(path);
        assert_eq!(found.get(path).map(|side| side.0), Some(side.0), "{what}: the mode of {shown:?}");
        assert!(found.get(path) == Some(side), "{what}: the content of {shown:?}");
    }
    for path in found.keys() {
        assert!(expected.contains_key(path), "{what}: {:?} should not be there", OsStr::from_bytes(path));
    }
}
