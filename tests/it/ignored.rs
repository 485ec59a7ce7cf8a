//! What ignore rules keep out of versions: the same as git keeps out.

use std::{fs, path::Path};

use serde_json::json;

use crate::{
    changes::assert_same_as_git,
    support::{
        Setup,
        edits::{Dice, change},
        repo::{git, said, tree, tree_id},
    },
};

const RULES: [&str; 36] = [
    "*.log",
    "!*.log",
    "/a",
    "a/",
    "!a/",
    "b",
    "!b",
    "/b/",
    "**/a",
    "a/**",
    "!a/**",
    "a/**/b",
    "**/a/b",
    "*.t?t",
    "[ab]",
    "[!ab]",
    "two words",
    "trail\\ ",
    "trail ",
    "\\!dash",
    "\\#hash",
    "#comment",
    "-dash",
    "q\"uote",
    "back\\\\slash",
    "*",
    "!*",
    "!*/",
    "a.b",
    "!a.b",
    "*.rs",
    "!d.rs",
    "/*/c.txt",
    "x.log/",
    "a*",
    "**",
];

fn rules(dice: &mut Dice) -> String {
    let end = ["\n", "\n", "\n", "\r\n"][dice.below(4)];
    let mut rules: String = (0..1 + dice.below(4)).map(|_| format!("{}{end}", dice.one(&RULES))).collect();
    if dice.below(4) == 0 {
        rules.truncate(rules.trim_end().len());
    }
    if dice.below(8) == 0 {
        rules.insert(0, '\u{feff}');
    }
    rules
}

fn folders(top: &Path) -> Vec<std::path::PathBuf> {
    let mut found = vec![top.to_owned()];
    let mut next = 0;
    while let Some(dir) = found.get(next) {
        let mut below: Vec<_> = fs::read_dir(dir)
            .expect("a folder")
            .map(|entry| entry.expect("an entry"))
            .filter(|entry| entry.file_type().expect("a type").is_dir() && entry.file_name() != ".git")
            .map(|entry| entry.path())
            .collect();
        below.sort();
        found.extend(below);
        next += 1;
    }
    found
}

async fn rounds(seeds: std::ops::Range<u64>) {
    let setup = Setup::new();
    let outside = setup.folder("outside");
    fs::create_dir(&outside).expect("a folder");
    // What is in the index belongs to a version, whatever a rule says: here nothing is.
    fs::remove_file(setup.workspace().join(".git/index")).expect("a file");
    tree_id(&setup.workspace(), &setup.folder("scratch"));
    let server = setup.start();
    for seed in seeds {
        let mut dice = Dice::new(seed);
        let workspace = server.workspace();
        for _ in 0..dice.below(12) {
            change(&mut dice, &workspace, &outside);
        }
        let folders = folders(&workspace);
        for _ in 0..dice.below(4) {
            let file = folders[dice.below(folders.len())].join(".gitignore");
            let _ = if dice.below(3) == 0 { fs::remove_file(file) } else { fs::write(file, rules(&mut dice)) };
        }
        if dice.below(5) == 0 {
            fs::create_dir_all(workspace.join(".git/info")).expect("a folder");
            fs::write(workspace.join(".git/info/exclude"), rules(&mut dice)).expect("a file");
            fs::create_dir_all(setup.folder("scratch/info")).expect("a folder");
            fs::copy(workspace.join(".git/info/exclude"), setup.folder("scratch/info/exclude")).expect("a file");
        }
        let newest = server.newest_version().await;
        let rules = tree(&workspace).into_iter().filter(|(path, _)| path.ends_with(b".gitignore"));
        let rules: Vec<_> =
            rules.map(|(path, (_, text))| [path, text].map(|it| String::from_utf8_lossy(&it).into_owned())).collect();
        assert_same_as_git(&server, &newest, &format!("seed {seed}, rules {rules:?}"));
    }
}

#[tokio::test]
async fn what_is_heard_of_and_what_rules_say_makes_the_tree_of_git_1() {
    rounds(0..120).await;
}

#[tokio::test]
async fn what_is_heard_of_and_what_rules_say_makes_the_tree_of_git_2() {
    rounds(5000..5120).await;
}

/// What git has in its index belongs to a version, whatever a rule says.
#[tokio::test]
async fn tracked_files_are_versioned_though_a_rule_ignores_them() {
    let setup = Setup::new();
    let workspace = setup.workspace();
    for (name, content) in [
        ("build/kept.txt", "1\n"),
        ("build/other.txt", "1\n"),
        ("a.log", "1\n"),
        ("b.log", "1\n"),
        ("deep/x/y/z.log", "1\n"),
    ] {
        let file = workspace.join(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(file, content).expect("a file");
    }
    fs::write(workspace.join(".gitignore"), "build/\n*.log\n/deep\n").expect("a file");
    git(&workspace, &["add", "-f", "build/kept.txt", "a.log", "deep/x/y/z.log", ".gitignore"]);
    let server = setup.start();
    let versioned = |tree: String| {
        let mut command = crate::support::repo::command(&setup.data_dir().join("versions/objects.git"));
        let listed = said(command.args(["ls-tree", "-r", "-z", "--name-only", &tree]));
        listed.split(|byte| *byte == 0).map(<[u8]>::to_vec).filter(|name| !name.is_empty()).collect::<Vec<_>>()
    };
    let of_git = || {
        let listed = git(&workspace, &["ls-files", "-z", "-co", "--exclude-standard"]);
        let mut names: Vec<_> =
            listed.split(|byte| *byte == 0).map(<[u8]>::to_vec).filter(|name| !name.is_empty()).collect();
        names.sort();
        names
    };
    let first = server.newest_version().await;
    let tree_of = |version: &serde_json::Value| version["tree"].as_str().expect("an id").to_owned();
    assert_eq!(versioned(tree_of(&first)), of_git());
    let since = first["id"].as_str().expect("an id").to_owned();
    // Changes are heard of also where nothing else is looked at.
    fs::write(workspace.join("build/kept.txt"), "2\n").expect("a file");
    fs::write(workspace.join("build/other.txt"), "2\n").expect("a file");
    assert_eq!(server.changed_since(&since).await, [("build/kept.txt".into(), "modified".into())]);
    fs::write(workspace.join("deep/x/y/z.log"), "2\n").expect("a file");
    fs::write(workspace.join("b.log"), "2\n").expect("a file");
    fs::remove_file(workspace.join("a.log")).expect("a file");
    let changed = server.changed_since(&since).await;
    let expected = [("a.log", "deleted"), ("build/kept.txt", "modified"), ("deep/x/y/z.log", "modified")];
    assert_eq!(changed, expected.map(|(path, kind)| (path.to_owned(), kind.to_owned())));
    fs::remove_file(workspace.join("build/kept.txt")).expect("a file");
    assert!(server.changed_since(&since).await.contains(&("build/kept.txt".into(), "deleted".into())));
    // One that git tracks from now on belongs to a version from now on.
    git(&workspace, &["add", "-f", "b.log"]);
    assert!(server.changed_since(&since).await.contains(&("b.log".into(), "created".into())));
}

/// A rule that comes later takes a file out of sight, and nothing else.
#[tokio::test]
async fn a_rule_that_comes_later_deletes_nothing() {
    let setup = Setup::new();
    let workspace = setup.workspace();
    fs::create_dir(workspace.join("out")).expect("a folder");
    for name in ["out/a.txt", "b.tmp", "c.txt"] {
        fs::write(workspace.join(name), "1\n").expect("a file");
    }
    let server = setup.start();
    let first = server.version().await;
    fs::write(workspace.join(".gitignore"), "out/\n*.tmp\n").expect("a file");
    fs::write(workspace.join("b.tmp"), "2\n").expect("a file");
    fs::write(workspace.join("out/a.txt"), "2\n").expect("a file");
    let body = server.rest.read(&format!("/files/changes?since_version={first}")).await;
    assert_eq!(body["changes"].as_array().expect("a list").len(), 1, "{body}");
    assert_eq!(body["changes"][0]["path"], ".gitignore");
    assert_eq!((&body["complete"], &body["left_out"]), (&json!(true), &json!([{"path": ".", "reason": "ignored"}])));
    let newest = server.newest_version().await;
    assert_eq!(newest["partial"], false);
    let left_out = json!([{"path": "b.tmp", "reason": "ignored"}, {"path": "out", "reason": "ignored"}]);
    assert_eq!(newest["left_out"], left_out);

    let wish = json!({"version": first, "dry_run": true});
    let done = server.rest.post("/files/revert", &wish).await.ok();
    assert_eq!(done["changes"], json!([{"path": ".gitignore", "type": "deleted"}]));
    assert_eq!(done["skipped"], left_out);
    let wish = json!({"version": first, "paths": ["out", "b.tmp"]});
    let done = server.rest.post("/files/revert", &wish).await.ok();
    assert_eq!((&done["changes"], &done["skipped"]), (&json!([]), &left_out));
    for name in ["out/a.txt", "b.tmp"] {
        assert_eq!(fs::read(workspace.join(name)).expect("a file"), b"2\n", "{name}");
    }
    // Without the rule they are seen as they are.
    fs::remove_file(workspace.join(".gitignore")).expect("a file");
    let changed = server.changed_since(&first).await;
    assert_eq!(changed, ["b.tmp", "out/a.txt"].map(|path| (path.to_owned(), "modified".to_owned())));
}
