//! Paths and links that a generator makes up: whatever they are, nothing outside is read, written or named.

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Read,
        os::unix::fs::symlink,
        path::{Path, PathBuf},
    };

    use proptest::{collection::vec, prelude::*, sample::select};

    use super::super::{PathError, RelativePath, Wanted, Workspace};
    use crate::domain::file::Conditions;

    const SECRET: &str = "outside";
    /// What paths and the targets of links are made of.
    const PIECES: [&str; 18] = [
        "..", ".", "", "a", "b", "l0", "l1", "l2", "file", "secret", "w", "w-x", ".git", "...", "%2e%2e", "\\", "é",
        "\0",
    ];

    fn path() -> impl Strategy<Value = String> {
        (any::<bool>(), vec(select(PIECES.as_slice()), 1..7)).prop_map(|(absolute, pieces)| {
            format!("{}{}", if absolute && pieces.len() % 3 == 0 { "/" } else { "" }, pieces.join("/"))
        })
    }

    /// All files below a folder but those in the workspace, with their content.
    fn outside(folder: &Path) -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
                let is_link = entry.is_symlink();
                match entry.is_dir() && !is_link {
                    true if entry == folder.join("w") => {}
                    true => folders.push(entry),
                    false => found.push((entry.clone(), fs::read_to_string(&entry).unwrap_or_default())),
                }
            }
        }
        found.sort();
        found
    }

    /// Does everything that can be done with a path; answers what was read and named.
    fn use_all(workspace: &Workspace, path: Result<RelativePath, PathError>) -> Vec<String> {
        let Ok(path) = path else { return Vec::new() };
        let mut told = Vec::new();
        if let Ok(mut file) = workspace.open_file(&path) {
            let mut content = String::new();
            let _ = file.read_to_string(&mut content);
            told.push(content);
        }
        let wanted = Wanted { recursive: true, include_ignored: true, ahead: 100, ..Wanted::default() };
        let _ = workspace.list(&path, &wanted, &mut |entry| {
            told.push(entry.path.display().to_string());
            true
        });
        let checks = Conditions::default().checks().unwrap();
        if let Ok(mut incoming) = workspace.begin(&path, true, &checks) {
            incoming.write(&path, b"written").unwrap();
            let _ = workspace.finish(&path, true, &checks, incoming);
        }
        let _ = workspace.write(&path, b"written by a tool");
        let _ = workspace.delete(&path, true, &checks);
        told
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_outside_is_read_written_or_named(
            links in vec(path(), 3),
            paths in vec(path(), 1..5),
            by_hand in any::<bool>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path().join("w");
            fs::create_dir_all(root.join("a/b")).unwrap();
            fs::create_dir_all(root.join(".git")).unwrap();
            fs::create_dir_all(folder.path().join("w-x/secret")).unwrap();
            for name in ["secret", "file", "w-x/file", "w-x/secret/file", "w-x/secret/unseen"] {
                let path = folder.path().join(name);
                if !path.is_dir() {
                    fs::write(path, SECRET).unwrap();
                }
            }
            for name in ["file", "a/file", "a/b/file", ".git/file"] {
                fs::write(root.join(name), "inside").unwrap();
            }
            for (number, target) in links.iter().enumerate() {
                // Absolute targets lead to the very place that is guarded.
                let target = target.strip_prefix('/').map_or(target.clone(), |rest| format!("{}/{rest}", folder.path().display()));
                let place = ["a", "", "a/b"][number];
                let _ = symlink(target.replace('\0', ""), root.join(place).join(format!("l{number}")));
            }
            let before = outside(folder.path());
            let workspace = Workspace::open_for_test(&root, by_hand).unwrap();
            for path in &paths {
                let told = [
                    use_all(&workspace, RelativePath::from_bytes(path.as_bytes())),
                    use_all(&workspace, workspace.for_model(path)),
                ];
                for text in told.iter().flatten() {
                    prop_assert!(text != SECRET && !text.contains("unseen"), "{path:?} by {links:?} tells {text:?}");
                }
            }
            prop_assert_eq!(outside(folder.path()), before, "{:?} by {:?}", paths, links);
            let kept = fs::read_to_string(root.join(".git/file")).unwrap_or_default();
            prop_assert_eq!(kept, "inside");
        }
    }
}
