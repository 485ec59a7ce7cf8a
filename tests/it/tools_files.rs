//! The tools of files: what they do to the workspace, what they say of it, and what they refuse.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use serde_json::json;

use crate::{
    support::{Model, Server, Step, Value, model::call},
    tools::{Ran, events_named, ready, run},
};

/// One call of one tool.
async fn one((model, server): &(Model, Server), tool: &str, input: Value) -> Ran {
    run(model, server, vec![call(tool, &input)]).await
}

fn put(server: &Server, name: &str, content: impl AsRef<[u8]>) {
    let path = server.workspace().join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, content).expect("a file");
}

fn read(server: &Server, name: &str) -> String {
    fs::read_to_string(server.workspace().join(name)).expect("a file")
}

fn view(path: &str) -> Step {
    call("view", &json!({ "path": path }))
}

fn write(path: &str, content: &str) -> Step {
    call("write", &json!({"path": path, "content": content}))
}

fn edit(path: &str, old: &str, new: &str) -> Step {
    call("edit", &json!({"path": path, "old_string": old, "new_string": new}))
}

#[tokio::test]
async fn view_shows_lines_by_number_and_says_when_there_is_more() {
    let it = ready().await;
    let lines: String = (1..=2500).map(|number| format!("line {number}\n")).collect();
    put(&it.1, "long.txt", lines);
    put(&it.1, "wide.txt", format!("{}\nshort\n", "ä".repeat(2500)));
    put(&it.1, "empty.txt", "");
    put(&it.1, "binary.bin", b"\0\x01\x02");

    let ran = one(&it, "view", json!({"path": "long.txt"})).await;
    let shown = ran.good();
    assert!(shown.starts_with("     1\tline 1\n     2\tline 2\n"), "{shown:.60}");
    assert!(shown.ends_with("  2000\tline 2000\n(lines 1 to 2000 of 2500; go on with offset 2001)"));
    let metadata = &it.1.rest.messages().await[2]["parts"][0]["metadata"];
    assert_eq!(*metadata, json!({"lines": 2000, "total_lines": 2500, "truncated": true}));
    let ran = one(&it, "view", json!({"path": "long.txt", "offset": 2499, "limit": 5})).await;
    assert_eq!(ran.good(), "  2499\tline 2499\n  2500\tline 2500\n");
    let absolute = it.1.workspace().join("long.txt");
    let ran = one(&it, "view", json!({"path": absolute, "offset": 7, "limit": 1})).await;
    assert!(ran.good().starts_with("     7\tline 7\n(lines 7 to 7 of 2500;"), "{}", ran.good());
    let ran = one(&it, "view", json!({"path": "long.txt", "offset": 2501})).await;
    assert_eq!(ran.bad(), "offset 2501 is past the end: long.txt has 2500 lines");

    let ran = one(&it, "view", json!({"path": "wide.txt"})).await;
    assert_eq!(ran.good(), format!("     1\t{} [line cut: 2500 columns]\n     2\tshort\n", "ä".repeat(2000)));
    assert_eq!(one(&it, "view", json!({"path": "empty.txt"})).await.good(), "empty.txt is empty");
    assert!(one(&it, "view", json!({"path": "binary.bin"})).await.bad().contains("binary file of 3 bytes"));
    // A missing one names what is near, a folder the right tool.
    let ran = one(&it, "view", json!({"path": "Readme.txt"})).await;
    assert_eq!(ran.bad(), "there is no file \"Readme.txt\"; did you mean README.md?");
    put(&it.1, "deep/below/special.rs", "");
    let ran = one(&it, "view", json!({"path": "special.rs"})).await;
    assert_eq!(ran.bad(), "there is no file \"special.rs\"; did you mean deep/below/special.rs?");
    assert_eq!(one(&it, "view", json!({"path": "deep"})).await.bad(), "deep is a directory; list it with ls");
}

#[tokio::test]
async fn write_makes_files_and_replaces_only_what_was_seen() {
    let (model, server) = ready().await;
    let it = |calls| run(&model, &server, calls);
    let ran = it(vec![write("new/folder/a.txt", "one\ntwo\n")]).await;
    assert_eq!(ran.good(), "created new/folder/a.txt (2 lines, 8 bytes)");
    assert_eq!(read(&server, "new/folder/a.txt"), "one\ntwo\n");
    // What it wrote itself it knows.
    assert!(it(vec![write("new/folder/a.txt", "three\n")]).await.good().starts_with("wrote new/folder/a.txt"));
    let metadata = &server.rest.messages().await[6]["parts"][0]["metadata"];
    assert_eq!((&metadata["additions"], &metadata["deletions"]), (&json!(1), &json!(2)), "{metadata}");
    assert!(metadata["diff"].as_str().is_some_and(|diff| diff.contains("-one\n-two\n+three\n")), "{metadata}");

    // Not seen, then seen, then changed behind its back.
    let unseen = "README.md exists and you have not viewed it; view it first";
    let ran = it(vec![write("README.md", "# Mine\n")]).await;
    assert!(ran.bad().ends_with(unseen), "{}", ran.bad());
    assert!(it(vec![edit("README.md", "project", "thing")]).await.bad().ends_with(unseen));
    // What is not there leads nowhere, also not back to what was not seen.
    let ran = it(vec![write("not-there/../README.md", "# Mine\n")]).await;
    assert!(ran.bad().contains("not-there"), "{}", ran.bad());
    assert_eq!(read(&server, "README.md"), "# A project\n");
    fs::set_permissions(server.workspace().join("README.md"), fs::Permissions::from_mode(0o750)).expect("a mode");
    let ran = it(vec![view("README.md"), write("README.md", "# Mine\n")]).await;
    assert_eq!(ran.errors, [false, false], "{:?}", ran.results);
    assert_eq!(read(&server, "README.md"), "# Mine\n");
    let mode = fs::metadata(server.workspace().join("README.md")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o750, "the mode is kept");
    put(&server, "README.md", "# Somebody else's\n");
    for call in [write("README.md", "# Mine\n"), edit("README.md", "else", "more")] {
        let ran = it(vec![call]).await;
        assert!(ran.bad().contains("has changed since you last saw it; view it again first"), "{}", ran.bad());
    }
    assert_eq!(read(&server, "README.md"), "# Somebody else's\n");
    // A file by another name is the same file.
    symlink("README.md", server.workspace().join("alias.md")).expect("a link");
    let ran = it(vec![view("./new/../README.md"), edit("alias.md", "Somebody else", "Nobody")]).await;
    assert_eq!(ran.errors, [false, false], "{:?}", ran.results);
    assert_eq!(read(&server, "README.md"), "# Nobody's\n");
    assert!(fs::symlink_metadata(server.workspace().join("alias.md")).expect("a link").is_symlink());

    // A reset forgets what was seen.
    server.rest.post("/session/reset", &json!({})).await.ok();
    assert!(it(vec![write("README.md", "")]).await.bad().ends_with(unseen));

    // Names that cannot be.
    for (path, words) in [
        ("new", "is a directory"),
        ("made/", "names a directory"),
        ("README.md/below.txt", "is not a directory"),
        (".git/made", "is inside .git"),
        ("new/../.git/hooks/post-commit", "is inside .git"),
        ("a\0b", "NUL"),
    ] {
        let ran = it(vec![write(path, "x")]).await;
        assert!(ran.bad().contains(words), "{path}: {}", ran.bad());
    }
    let left: Vec<_> = fs::read_dir(server.workspace()).expect("a folder").flatten().map(|it| it.file_name()).collect();
    assert_eq!(left.len(), 4, "no temporary file is left: {left:?}");
}

#[tokio::test]
async fn edit_replaces_exactly_once_and_keeps_the_rest_to_the_byte() {
    let (model, server) = ready().await;
    let it = |calls| run(&model, &server, calls);
    put(&server, "a.txt", "one\ntwo\none\n");
    it(vec![view("a.txt")]).await;
    let ran = it(vec![edit("a.txt", "one", "1")]).await;
    assert!(ran.bad().contains("old_string is there 2 times (at lines 1, 3)"), "{}", ran.bad());
    let ran = it(vec![edit("a.txt", "three", "3")]).await;
    assert!(ran.bad().contains("old_string is not in the file"), "{}", ran.bad());
    let ran = it(vec![edit("a.txt", "     2\ttwo", "2")]).await;
    assert!(ran.bad().contains("leave out the line numbers"), "{}", ran.bad());
    assert_eq!(read(&server, "a.txt"), "one\ntwo\none\n", "a refused edit changes nothing");

    assert_eq!(it(vec![edit("a.txt", "two\none", "2")]).await.good(), "edited a.txt: replaced once");
    let all = json!({"path": "a.txt", "old_string": "n", "new_string": "N", "replace_all": true});
    assert_eq!(it(vec![call("edit", &all)]).await.good(), "edited a.txt: replaced once");
    assert_eq!(it(vec![edit("a.txt", "oNe\n", "")]).await.good(), "edited a.txt: deleted once");
    assert_eq!(read(&server, "a.txt"), "2\n");
    put(&server, "b.txt", "x x x");
    let all = json!({"path": "b.txt", "old_string": "x", "new_string": "yx", "replace_all": true});
    let ran = it(vec![view("b.txt"), call("edit", &all)]).await;
    assert_eq!(
        (ran.results[1].as_str(), read(&server, "b.txt").as_str()),
        ("edited b.txt: replaced 3 times", "yx yx yx")
    );

    // An empty old_string makes a file, and only that.
    assert_eq!(it(vec![edit("made/c.txt", "", "new\n")]).await.good(), "created made/c.txt (1 lines)");
    let ran = it(vec![edit("made/c.txt", "", "newer\n")]).await;
    assert!(ran.bad().contains("exists and has content"), "{}", ran.bad());
    assert_eq!(read(&server, "made/c.txt"), "new\n");

    // Line ends and the byte order mark stay as they are; the model sees and sends neither.
    put(&server, "d.txt", "\u{feff}one\r\ntwo\r\nthree\r\n");
    let ran = it(vec![view("d.txt"), edit("d.txt", "one\ntwo\n", "1\n2\n2b\n")]).await;
    assert_eq!(ran.results[0], "     1\tone\n     2\ttwo\n     3\tthree\n");
    assert_eq!(ran.errors, [false, false], "{:?}", ran.results);
    assert_eq!(read(&server, "d.txt"), "\u{feff}1\r\n2\r\n2b\r\nthree\r\n");

    put(&server, "e.bin", b"caf\xe9");
    let ran = it(vec![view("e.bin"), edit("e.bin", "caf", "tea")]).await;
    assert!(ran.errors[1] && ran.results[1].contains("not UTF-8"), "{:?}", ran.results);
    assert_eq!(fs::read(server.workspace().join("e.bin")).expect("a file"), b"caf\xe9");
    let ran = it(vec![edit("READ.md", "a", "b")]).await;
    assert!(ran.bad().contains("did you mean README.md?"), "{}", ran.bad());
}

#[tokio::test]
async fn ls_glob_and_grep_find_what_is_there() {
    let it = ready().await;
    let server = &it.1;
    put(server, ".gitignore", "ignored/\n*.log\n");
    put(server, ".hidden/a.rs", "fn hidden() {}\n");
    put(server, "ignored/b.rs", "fn ignored() {}\n");
    put(server, "src/main.rs", "fn main() {\n    let x = \"a.c\";\n}\n");
    put(server, "src/deep/lib.rs", "// -x abc\n");
    put(server, "debug.log", "fn log()\n");

    let ran = one(&it, "ls", json!({})).await;
    let tree = "./\n  .gitignore\n  .hidden/\n    a.rs\n  README.md\n  src/\n    deep/\n      lib.rs\n    main.rs\n";
    assert_eq!(ran.good(), tree);
    let ran = one(&it, "ls", json!({"path": "src", "depth": 1, "ignore": ["*.rs"]})).await;
    assert_eq!(ran.good(), "src/\n  deep/\n");
    assert_eq!(one(&it, "ls", json!({"path": "README.md"})).await.bad(), "README.md is not a directory");
    assert!(one(&it, "ls", json!({"path": "srcs"})).await.bad().contains("did you mean src?"));

    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let ran = one(&it, "glob", json!({"pattern": "*.rs"})).await;
    assert_eq!(sorted(ran.good()), [".hidden/a.rs", "src/deep/lib.rs", "src/main.rs"]);
    let ran = one(&it, "glob", json!({"pattern": "**/*.{rs,md}", "path": "src"})).await;
    assert_eq!(sorted(ran.good()), ["src/deep/lib.rs", "src/main.rs"]);
    assert_eq!(one(&it, "glob", json!({"pattern": "*.nothing"})).await.good(), "no files match \"*.nothing\"\n");

    let ran = one(&it, "grep", json!({"pattern": r"^fn \w+\("})).await;
    assert_eq!(sorted(ran.good()), [".hidden/a.rs:1: fn hidden() {}", "src/main.rs:1: fn main() {"]);
    let ran = one(&it, "grep", json!({"pattern": "a.c", "include": "src/*.rs"})).await;
    assert_eq!(ran.good(), "src/main.rs:2:     let x = \"a.c\";\n");
    // A pattern that begins with a dash is a pattern, and a literal one has no meaning.
    let ran = one(&it, "grep", json!({"pattern": "-x a.c"})).await;
    assert_eq!(ran.good(), "src/deep/lib.rs:1: // -x abc\n");
    let ran = one(&it, "grep", json!({"pattern": "a.c", "literal": true, "path": "src/deep/lib.rs"})).await;
    assert_eq!(ran.good(), "no lines match \"a.c\"\n");
}

#[tokio::test]
async fn many_results_are_cut_and_the_cut_is_stated() {
    let it = ready().await;
    for number in 0..1_200 {
        put(&it.1, &format!("many/{number}.txt"), "needle\n");
    }
    put(&it.1, "many/newest.txt", format!("needle {}\n", "x".repeat(3_000)));
    // Newer than all others, by the clock of the file system.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    let newest = fs::File::options().write(true).open(it.1.workspace().join("many/newest.txt")).expect("a file");
    newest.set_modified(later).expect("a time");

    let ran = one(&it, "ls", json!({"path": "many"})).await;
    assert_eq!(ran.good().lines().count(), 1 + 1_000 + 1);
    assert!(ran.good().contains("(cut at 1000 entries: there are more;"), "{}", ran.good());
    let ran = one(&it, "glob", json!({"pattern": "many/*"})).await;
    let lines: Vec<&str> = ran.good().lines().collect();
    assert_eq!((lines.len(), lines[0]), (101, "many/newest.txt"));
    assert_eq!(lines[100], "(cut at 100 of 1201 files; narrow the pattern or the path)");
    let ran = one(&it, "grep", json!({"pattern": "needle"})).await;
    let lines: Vec<&str> = ran.good().lines().collect();
    assert_eq!(lines.len(), 101);
    assert!(lines[0].starts_with("many/newest.txt:1: needle xxx") && lines[0].ends_with("x [cut]"), "{}", lines[0]);
    assert!(lines[0].len() < 600 && lines[100].starts_with("(cut at 100 lines: there are more;"), "{}", lines[100]);
}

#[tokio::test]
async fn paths_that_lead_out_are_refused_in_words() {
    let it = ready().await;
    let (model, server) = (&it.0, &it.1);
    // Beside the workspace, with a name that begins like it.
    let outside = server.setup().folder("workspace-not");
    fs::create_dir(&outside).expect("a folder");
    fs::write(outside.join("secret.txt"), "the secret\n").expect("a file");
    symlink(&outside, server.workspace().join("door")).expect("a link");
    symlink(outside.join("secret.txt"), server.workspace().join("window.txt")).expect("a link");
    symlink("../workspace-not/secret.txt", server.workspace().join("hatch.txt")).expect("a link");
    symlink("/etc/passwd", server.workspace().join("passwd")).expect("a link");
    fs::create_dir(server.workspace().join("sub")).expect("a folder");

    let absolute = outside.join("secret.txt").display().to_string();
    let mut calls = Vec::new();
    for path in [
        "../workspace-not/secret.txt",
        "sub/../../workspace-not/secret.txt",
        "door/secret.txt",
        "door/../workspace-not/secret.txt",
        "window.txt",
        "hatch.txt",
        "passwd",
        "/etc/passwd",
        "//etc/passwd",
        "/proc/self/environ",
        absolute.as_str(),
    ] {
        calls.push(view(path));
        calls.push(write(path, "owned\n"));
        calls.push(edit(path, "secret", "owned"));
        calls.push(call("grep", &json!({"pattern": "secret|root", "path": path})));
    }
    for path in ["..", "door", "sub/../..", "/", "/etc"] {
        calls.push(call("ls", &json!({ "path": path })));
        calls.push(call("glob", &json!({"pattern": "*", "path": path})));
        calls.push(call("grep", &json!({"pattern": "secret|root", "path": path})));
    }
    for path in ["door/made.txt", "../made.txt", "/tmp/made-by-opencode-it.txt", "sub/../../made.txt"] {
        calls.push(write(path, "owned\n"));
        calls.push(edit(path, "", "owned\n"));
    }
    let count = calls.len();
    let ran = run(model, server, calls).await;
    assert_eq!(ran.errors.len(), count);
    let inputs: Vec<&Value> = events_named(&ran.events, "tool_call_started").collect();
    for (index, result) in ran.results.iter().enumerate() {
        let input = inputs.iter().find(|started| started["part_index"] == index).expect("it was started");
        assert!(ran.errors[index], "{input} {result}");
        assert!(result.contains("leads out of the workspace"), "{input} {result}");
    }
    assert_eq!(fs::read_to_string(outside.join("secret.txt")).expect("a file"), "the secret\n");
    assert_eq!(fs::read_dir(&outside).expect("a folder").count(), 1, "nothing was made there");
    assert!(!server.setup().folder("made.txt").exists() && !Path::new("/tmp/made-by-opencode-it.txt").exists());

    // Walking does not go through them, and what stays inside is no escape.
    assert!(one(&it, "grep", json!({"pattern": "secret|root"})).await.good().starts_with("no lines match"));
    assert!(one(&it, "glob", json!({"pattern": "**/secret.txt"})).await.good().starts_with("no files match"));
    let listed = "./\n  README.md\n  door@\n  hatch.txt@\n  passwd@\n  sub/\n  window.txt@\n";
    assert_eq!(one(&it, "ls", json!({})).await.good(), listed);
    let ran = one(&it, "view", json!({"path": "sub/../README.md"})).await;
    assert!(ran.good().contains("# A project"));
    let pipe = server.workspace().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let ran = one(&it, "view", json!({"path": "pipe"})).await;
    assert!(ran.bad().contains("is not a regular file"), "nobody waits for a pipe: {}", ran.bad());
}
