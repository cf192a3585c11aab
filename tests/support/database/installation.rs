//! The servers that are installed, and an initialised data directory of each.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::super::process::{guarded, log_to, missing, path_arg, spawn, system_program, tail, unpacked};
use super::Flavor;

/// Counts the ways templates were made, so that a template which an older version of
/// this file left behind is not taken for one of today's.
const TEMPLATE_RECIPE: u32 = 1;

/// Where the templates are. Cargo has a folder for tests and benches; a fuzz target is neither.
const TEMPLATES: &str = match option_env!("CARGO_TARGET_TMPDIR") {
    Some(folder) => folder,
    None => concat!(env!("CARGO_MANIFEST_DIR"), "/target/tmp"),
};

/// An installed server, and the template of its data directory.
pub(super) struct Installation {
    flavor: Flavor,
    /// The server's program, with what has to stand before it.
    program: Vec<OsString>,
    /// `MySQL`'s folder in the cache; empty for `MariaDB`.
    root: PathBuf,
    pub(super) version: String,
    /// Initialising takes seconds, so it's done once for all tests, which copy this.
    pub(super) template: PathBuf,
}

impl Installation {
    /// The installation of `flavor`, its template made if it is not there.
    pub(super) fn of(flavor: Flavor) -> &'static Self {
        static MARIADB: OnceLock<Installation> = OnceLock::new();
        static MYSQL9: OnceLock<Installation> = OnceLock::new();
        let cell = match flavor {
            Flavor::MariaDb => &MARIADB,
            Flavor::MySql9 => &MYSQL9,
        };
        cell.get_or_init(|| {
            let mut installation = Self::find(flavor);
            installation.version = installation.ask_version();
            installation.template = Path::new(TEMPLATES).join(installation.template_name());
            installation.make_template();
            installation
        })
    }

    /// The programs alone, the version and the template not known yet.
    fn find(flavor: Flavor) -> Self {
        let (program, root) = match flavor {
            Flavor::MariaDb => (vec![system_program("mariadbd").into()], PathBuf::new()),
            Flavor::MySql9 => {
                let root = unpacked("mysql");
                let loader = loader_of(&root);
                let libraries = loader.parent().expect("a file has a folder").to_owned();
                // Its own loader and libraries, for it is built for a newer libc than the
                // system's may be.
                let program =
                    vec![loader.into(), "--library-path".into(), libraries.into(), root.join("usr/sbin/mysqld").into()];
                (program, root)
            }
        };
        Self { flavor, program, root, version: String::new(), template: PathBuf::new() }
    }

    fn ask_version(&self) -> String {
        let output = self
            .server()
            .arg("--version")
            .output()
            .unwrap_or_else(|error| missing(&format!("{:?}: {error}", self.program)));
        let text = String::from_utf8_lossy(&output.stdout);
        let mut words = text.split_whitespace().skip_while(|word| *word != "Ver");
        match words.nth(1) {
            Some(version) => version.to_owned(),
            None => missing(&format!("{:?} does not run", self.program)),
        }
    }

    /// The server's command with the arguments that hold for all it is run for.
    pub(super) fn server(&self) -> Command {
        let mut command = guarded(&self.program[0]);
        command.args(&self.program[1..]).arg("--no-defaults");
        if is_root() {
            // Servers refuse to run as root unless told so.
            command.arg("--user=root");
        }
        match self.flavor {
            Flavor::MariaDb => command.args(MARIADB_SIZES),
            Flavor::MySql9 => command
                .args(MYSQL_SIZES)
                .arg(path_arg("--basedir=", &self.root.join("usr")))
                .arg(path_arg("--plugin-dir=", &self.root.join("usr/lib/mysql/plugin")))
                .arg(path_arg("--lc-messages-dir=", &self.root.join("usr/share/mysql")))
                .arg(path_arg("--character-sets-dir=", &self.root.join("usr/share/mysql/charsets")))
                // Its default is a folder that packages make.
                .arg("--secure-file-priv=NULL"),
        };
        command
    }

    /// Further arguments for serving.
    pub(super) fn run_args(&self) -> &'static [&'static str] {
        match self.flavor {
            // The default from 11.6 on, and the stricter way.
            Flavor::MariaDb => &["--performance-schema=OFF", "--innodb-snapshot-isolation=ON"],
            // The X protocol would bind a port and a socket that all servers share.
            Flavor::MySql9 => &["--performance-schema=OFF", "--skip-log-bin", "--mysqlx=OFF"],
        }
    }

    fn template_name(&self) -> String {
        let version: String =
            self.version.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
        format!("template-{:?}-{version}-{TEMPLATE_RECIPE}", self.flavor)
    }

    /// Makes the template, unless this or another process has made it.
    fn make_template(&self) {
        let parent = self.template.parent().expect("it is in a folder");
        fs::create_dir_all(parent).expect("can't make the target folder for temporary files");
        let lock = File::create(parent.join(format!("{}.lock", self.template_name())))
            .expect("can't make the lock file of the template");
        // Let go of when the file is closed, so a process that dies here blocks nobody.
        lock.lock().expect("can't lock the template");
        if self.template.is_dir() {
            return;
        }

        // Made in a folder of its own and renamed when complete.
        let scratch =
            tempfile::Builder::new().prefix("template-").tempdir_in(parent).expect("no folder to make the template in");
        let data = scratch.path().join("data");
        let sql = scratch.path().join("init.sql");
        let log = scratch.path().join("log");
        let mut command = match self.flavor {
            Flavor::MariaDb => {
                fs::write(&sql, "CREATE DATABASE sequence;\n").expect("can't write the first statements");
                let mut command = guarded(system_program("mariadb-install-db"));
                command
                    .args(["--no-defaults", "--auth-root-authentication-method=normal"])
                    .args(["--skip-test-db", "--skip-name-resolve"])
                    .args(MARIADB_SIZES)
                    .arg(path_arg("--extra-file=", &sql));
                if is_root() {
                    command.arg("--user=root");
                }
                command
            }
            Flavor::MySql9 => {
                // root@localhost is the socket's only, as no server resolves names.
                fs::write(
                    &sql,
                    "CREATE USER root@'127.0.0.1' IDENTIFIED BY '';\n\
                     GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n\
                     CREATE DATABASE sequence;\n",
                )
                .expect("can't write the first statements");
                let mut command = self.server();
                command.arg("--initialize-insecure").arg(path_arg("--init-file=", &sql));
                command
            }
        };
        command.arg(path_arg("--datadir=", &data));
        log_to(&mut command, &log);
        let status =
            spawn(command).and_then(|mut child| child.wait()).unwrap_or_else(|error| missing(&error.to_string()));
        assert!(
            status.success(),
            "{:?} can't make a data directory ({status}); the end of the log:\n{}",
            self.flavor,
            tail(&fs::read_to_string(&log).unwrap_or_default()),
        );
        // The id of one server, which makes a new one for itself when it has none.
        let _ = fs::remove_file(data.join("auto.cnf"));
        fs::rename(&data, &self.template).expect("can't put the template in its place");
    }
}

/// Copies a data folder; `to` must not exist yet.
pub(super) fn copy_folder(from: &Path, to: &Path) {
    // Most of a fresh data directory is zeros, which cp leaves out.
    let output = Command::new("cp")
        .args(["--recursive", "--sparse=always", "--no-target-directory"])
        .arg(from)
        .arg(to)
        .output()
        .expect("can't run cp");
    assert!(output.status.success(), "can't copy the data: {}", String::from_utf8_lossy(&output.stderr));
}

/// Small files and little memory, as many servers run at a time. What concerns the files
/// must be the same for making the template and for running on a copy of it. The kernel
/// has a limit on native asynchronous requests, which is for all processes together.
const MARIADB_SIZES: [&str; 3] =
    ["--innodb-log-file-size=8M", "--innodb-buffer-pool-size=32M", "--innodb-use-native-aio=OFF"];

/// See [`MARIADB_SIZES`].
const MYSQL_SIZES: [&str; 3] =
    ["--innodb-redo-log-capacity=8M", "--innodb-buffer-pool-size=64M", "--innodb-use-native-aio=OFF"];

/// The dynamic loader among the libraries under `root`. Its name and that of the
/// libraries' folder depend on the machine's kind.
fn loader_of(root: &Path) -> PathBuf {
    let entries = |folder: &Path| {
        fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path()).collect::<Vec<_>>()
    };
    entries(&root.join("usr/lib"))
        .iter()
        .flat_map(|folder| entries(folder))
        .find(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux")))
        .unwrap_or_else(|| missing(&format!("no loader in {}", root.display())))
}

fn is_root() -> bool {
    // Without unsafe there's no asking for the user's id; its own entry in /proc has it.
    fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}
