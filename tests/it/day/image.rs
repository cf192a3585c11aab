//! What is in the image of Dockerfile, as Compose runs it: read from those files, and laid out in a folder. The real image is
//! built and tried by `make image`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_yaml::Value;

use crate::support::server::Setup;

/// Where the image's first stage has the binary.
const BUILT: &str = "/build/target/release/seqsvr";

/// Lays it out, with `password` as the secret that Compose hands over. A path of the image is one below the folder.
pub fn lay_out(password: &str) -> Setup {
    let image = Image::read();
    let compose: Value = serde_yaml::from_str(&read("deploy/compose.yaml")).expect("YAML");
    let service = &compose["services"]["seqsvr"];
    let setup = Setup::new("");
    let root = Root(setup.folder().to_owned());

    for (from, to) in &image.copies {
        match &**from {
            BUILT => root.put(env!("CARGO_BIN_EXE_seqsvr"), to),
            folder if folder == image.volume => fs::create_dir_all(root.of(to)).expect("a folder"),
            file => root.put(file, to),
        }
    }
    for volume in texts(&service["volumes"]) {
        let mut parts = volume.split(':');
        let (from, to) = parts.next().zip(parts.next()).expect("what, and where");
        match from.strip_prefix("./") {
            Some(file) => root.put(&format!("deploy/{file}"), to),
            None => assert_eq!(to, image.volume, "{from}"),
        }
    }
    for secret in texts(&service["secrets"]) {
        let file = root.of(&format!("/run/secrets/{secret}"));
        fs::create_dir_all(file.parent().expect("its folder")).expect("a folder");
        fs::write(file, format!("{password}\n")).expect("it is written");
    }

    let health_check = [&image.entrypoint[..], &["healthcheck".to_owned()]].concat();
    assert_eq!(image.health_check, health_check);

    let given = service["environment"].as_mapping().expect("an environment");
    let given = given.iter().map(|(name, value)| (text(name), text(value)));
    let (program, arguments) = image.entrypoint.split_first().expect("a program");
    let setup = setup.program(root.of(program), root.of(&image.workdir), image.command);
    let setup = image
        .environment
        .into_iter()
        .chain(given)
        .fold(setup, |setup, (name, value)| setup.env(&name, &root.localized(&value)));
    arguments.iter().fold(setup, |setup, argument| setup.arg(&root.localized(argument)))
}

/// The folder that is the container's root.
struct Root(PathBuf);

impl Root {
    fn of(&self, path: &str) -> PathBuf {
        self.0.join(path.strip_prefix('/').unwrap_or_else(|| panic!("{path} is not absolute")))
    }

    /// An argument or a variable: a path, or something else.
    fn localized(&self, value: &str) -> String {
        if value.starts_with('/') { self.of(value).to_str().expect("UTF-8").to_owned() } else { value.to_owned() }
    }

    /// A file of this repository, or one that was built.
    fn put(&self, file: &str, to: &str) {
        let to = self.of(to);
        fs::create_dir_all(to.parent().expect("its folder")).expect("a folder");
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(file), to)
            .unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

/// The last stage of Dockerfile.
#[derive(Default)]
struct Image {
    /// What, and where to; the options left out.
    copies: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    health_check: Vec<String>,
    workdir: String,
    volume: String,
}

impl Image {
    fn read() -> Self {
        let file = read("Dockerfile");
        let lines = file.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
        let (_, stage) = lines.rsplit_once("\nFROM ").expect("a last stage");
        let stage = stage.replace("\\\n", " ");
        let mut image = Self::default();
        for (instruction, rest) in stage.lines().skip(1).filter_map(|line| line.split_once(' ')) {
            match instruction {
                "COPY" => {
                    let words: Vec<&str> = rest.split_whitespace().filter(|word| !word.starts_with("--")).collect();
                    let [from, to] = words[..] else { panic!("one file: {rest}") };
                    image.copies.push((from.to_owned(), to.to_owned()));
                }
                "ENV" => {
                    let (name, value) = rest.split_once('=').expect("NAME=value");
                    image.environment.push((name.to_owned(), value.to_owned()));
                }
                "ENTRYPOINT" => image.entrypoint = list(rest),
                "CMD" => image.command = list(rest),
                "HEALTHCHECK" => image.health_check = list(rest.split_once(" CMD ").expect("a command").1),
                "WORKDIR" => rest.clone_into(&mut image.workdir),
                "VOLUME" => rest.clone_into(&mut image.volume),
                "LABEL" | "USER" | "EXPOSE" => {}
                other => panic!("{other}: not known here"),
            }
        }
        image
    }
}

/// As a program and its arguments are given where no shell is to read them.
fn list(json: &str) -> Vec<String> {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

fn texts(list: &Value) -> Vec<String> {
    list.as_sequence().expect("a list").iter().map(text).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text: {value:?}")).to_owned()
}

/// A file of this repository.
fn read(path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{path}: {error}"))
}
