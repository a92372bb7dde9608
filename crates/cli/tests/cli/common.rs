//! Running the binary in a folder of its own.

use std::io::Read;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use tempfile::TempDir;

/// A folder, and a cache inside it.
pub(crate) struct Sandbox {
    folder: TempDir,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file and returns its name.
    pub(crate) fn file(&self, name: &'static str, content: impl AsRef<[u8]>) -> &'static str {
        std::fs::write(self.path(name), content).unwrap();
        name
    }

    /// The binary, in this folder and with nothing of the machine's own settings.
    pub(crate) fn tesseral(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tesseral"));
        command.current_dir(self.folder.path()).args(args);
        for variable in
            ["TESSERAL_DEVICE", "TESSERAL_MODEL", "TESSERAL_MANIFEST", "TESSERAL_LOG", "TESSERAL_THREADS", "CLICOLOR_FORCE", "NO_COLOR"]
        {
            command.env_remove(variable);
        }
        command.env("TESSERAL_CACHE", self.path("cache"));
        command
    }

    /// Runs the binary and writes down everything that can be seen of it.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        transcript(self.tesseral(args))
    }

    /// Standard output of a run that has to succeed.
    pub(crate) fn stdout(&self, args: &[&str]) -> String {
        let output = self.tesseral(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{args:?}: {}\n{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// The names in the folder, sorted: to see that nothing was left behind.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// Exit code, standard output and standard error of a command.
pub(crate) fn transcript(mut command: Command) -> String {
    let output = command.output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stderr.contains("panicked"), "{stderr}");
    let code = output.status.code().unwrap();
    format!("exit code {code}\n---- stdout ----\n{stdout}---- stderr ----\n{stderr}")
}

/// A file of the examples.
pub(crate) fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name);
    path.canonicalize().unwrap().to_str().unwrap().to_owned()
}

/// A golden model of MACE, unpacked.
pub(crate) fn golden(name: &str) -> Vec<u8> {
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/mace").join(format!("{name}.gz"));
    let mut model = Vec::new();
    flate2::read::GzDecoder::new(std::fs::File::open(packed).unwrap()).read_to_end(&mut model).unwrap();
    model
}

/// The lines of --json.
pub(crate) fn json_lines(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Snapshots are about form: numbers that depend on the processor's rounding, times and versions are blanked, column widths
/// kept.
pub(crate) fn with_filters(check: impl FnOnce()) {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"-?\d+\.\d{4,6}\b", "[number]");
    settings.add_filter(r"\d\.\d+e-?\d+", "[small]");
    settings.add_filter(r" +(\[number\]|\[small\])", " $1");
    settings.add_filter(r"\d+\.\d+\.\d+", "[version]");
    settings.bind(check);
}
