//! Arguments, exit codes, streams.

use std::process::{Command, Stdio};

use crate::common::{Sandbox, example, transcript, with_filters};

#[test]
fn wrong_usage_is_exit_code_2() {
    let sandbox = Sandbox::new();
    insta::assert_snapshot!(sandbox.run(&["evalute"]), @r#"
    exit code 2
    ---- stdout ----
    ---- stderr ----
    error: unrecognized subcommand 'evalute'

      tip: a similar subcommand exists: 'evaluate'

    Usage: tesseral [OPTIONS] <COMMAND>

    For more information, try '--help'.
    "#);
    insta::assert_snapshot!(sandbox.run(&["evaluate"]), @r#"
    exit code 2
    ---- stdout ----
    ---- stderr ----
    error: the following required arguments were not provided:
      <FILES>...

    Usage: tesseral evaluate <FILES>...

    For more information, try '--help'.
    "#);
    insta::assert_snapshot!(sandbox.run(&["evaluate", "x", "--threads", "0"]), @r#"
    exit code 2
    ---- stdout ----
    ---- stderr ----
    error: invalid value '0' for '--threads <N>': number would be zero for non-zero type

    For more information, try '--help'.
    "#);
    insta::assert_snapshot!(sandbox.run(&["evaluate", "x", "--per-atom"]), @r#"
    exit code 2
    ---- stdout ----
    ---- stderr ----
    error: --per-atom needs --json or -o: the table has no room for atoms
    "#);
    insta::assert_snapshot!(sandbox.run(&["evaluate", "x", "-o", "-", "--json"]), @r#"
    exit code 2
    ---- stdout ----
    ---- stderr ----
    error: --json and -o - both want standard output
    hint: write one of them to a file
    "#);
    insta::assert_snapshot!(sandbox.run(&["evaluate", "x", "-o", "out.cif"]), @r#"
    exit code 2
    ---- stdout ----
    ---- stderr ----
    error: out.cif is named like a CIF file, but results are written as extended XYZ
    hint: write to out.extxyz
    "#);
}

#[test]
fn help_version_completions_and_man_pages() {
    let sandbox = Sandbox::new();
    with_filters(|| {
        insta::assert_snapshot!(sandbox.run(&["--version"]), @r#"
    exit code 0
    ---- stdout ----
    tesseral [version]
    ---- stderr ----
    "#);
    });
    let help = sandbox.stdout(&["--help"]);
    for command in ["evaluate", "verify", "info", "import", "models", "fetch", "completions", "man"] {
        assert!(help.contains(&format!("\n  {command}")), "{help}");
    }
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(sandbox.stdout(&["completions", shell]).contains("keep-going"), "{shell}");
    }
    assert!(sandbox.stdout(&["man"]).contains(".TH tesseral 1"));
    sandbox.stdout(&["man", "-o", "pages"]);
    let pages = std::fs::read_dir(sandbox.path("pages")).unwrap().count();
    assert!(pages >= 9, "{pages} pages");
}

#[test]
fn a_closed_pipe_is_success() {
    let sandbox = Sandbox::new();
    let frames = std::fs::read_to_string(example("ethanol.extxyz")).unwrap().repeat(50);
    sandbox.file("many.extxyz", frames);
    for args in [
        vec!["evaluate", "many.extxyz", "--json"],
        vec!["models"],
        vec!["man"],
        vec!["completions", "bash"],
        vec!["evaluate", "many.extxyz", "-o", "-"],
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tesseral"))
            .args(&args)
            .current_dir(sandbox.path(""))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{args:?}: {output:?}");
    }
}

#[test]
fn a_closed_pipe_does_not_keep_the_file_from_being_written() {
    let sandbox = Sandbox::new();
    let frames = std::fs::read_to_string(example("ethanol.extxyz")).unwrap().repeat(3);
    sandbox.file("many.extxyz", frames);
    let mut child = Command::new(env!("CARGO_BIN_EXE_tesseral"))
        .args(["evaluate", "many.extxyz", "-o", "out.extxyz"])
        .current_dir(sandbox.path(""))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    let written = std::fs::read_to_string(sandbox.path("out.extxyz")).unwrap();
    assert_eq!(written.matches("energy=").count(), 3);
}

#[test]
fn colour_only_where_it_is_wanted() {
    let sandbox = Sandbox::new();
    let args = ["evaluate", "missing.xyz"];
    let escape = |text: &str| text.contains('\u{1b}');
    assert!(!escape(&sandbox.run(&args)));
    assert!(escape(&sandbox.run(&["--color", "always", args[0], args[1]])));
    assert!(!escape(&sandbox.run(&["--color", "never", args[0], args[1]])));
    let mut command = sandbox.tesseral(&args);
    command.env("NO_COLOR", "1");
    assert!(!escape(&transcript(command)));
}
