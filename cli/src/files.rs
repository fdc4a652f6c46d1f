//! Manifests from files, folders and standard input, read and checked before anything is sent.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use clone8s::{
    manifest::{self, Document, ManifestErrors},
    object::AnyObject,
    rules::Violation,
};

#[derive(Debug, Clone, Args)]
pub struct FileArgs {
    /// A manifest file, a folder of *.yaml, *.yml and *.json files, or - for standard input; may be repeated
    #[arg(short = 'f', long = "filename", value_name = "PATH", required = true)]
    pub files: Vec<PathBuf>,
    /// Go into the folders of a folder too
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// An object and where it was written.
#[derive(Debug, Clone)]
pub struct Declared {
    pub document: Document,
    source: Arc<Source>,
}

impl Declared {
    /// "pod/web".
    pub fn label(&self) -> String {
        let object = &self.document.object;
        format!("{}/{}", object.kind().to_lowercase(), object.name())
    }

    /// "web.yaml: line 12".
    pub fn place(&self) -> String {
        format!("{}: line {}", self.source.name, self.document.line)
    }

    /// Gives what the server found wrong its places in the file.
    pub fn explain(&self, violations: &[Violation]) -> ManifestErrors {
        self.document
            .explain(&self.source.name, &self.source.text, violations)
    }
}

impl FileArgs {
    /// Every object in the order of the arguments, of the files' names and of the documents, namespaces first.
    /// An error lists everything that is wrong in every file.
    pub fn read(&self) -> Result<Vec<Declared>> {
        let mut declared = Vec::new();
        let mut errors = Vec::new();
        for path in &self.files {
            for source in self.sources(path)? {
                let source = Arc::new(source);
                match manifest::parse(&source.name, &source.text) {
                    Ok(documents) => declared.extend(documents.into_iter().map(|document| Declared {
                        document,
                        source: Arc::clone(&source),
                    })),
                    Err(error) => errors.push(error.to_string()),
                }
            }
        }
        if !errors.is_empty() {
            bail!("nothing was sent:\n{}", errors.join("\n"));
        }
        if declared.is_empty() {
            bail!("no objects in {}", self.describe());
        }
        // A pod cannot be made before its namespace. The sort is stable: all else keeps its order.
        declared.sort_by_key(|declared| !matches!(declared.document.object, AnyObject::Namespace(_)));
        Ok(declared)
    }

    /// As [`FileArgs::read`], with every object held to the rules of its kind, so that nothing is sent of a set that
    /// is wrong in part. The namespace is where those go that name none.
    pub fn read_valid(&self, namespace: &str) -> Result<Vec<Declared>> {
        let declared = self.read()?;
        let mut errors: Vec<_> = declared
            .iter()
            .filter_map(|declared| {
                let mut object = declared.document.object.clone();
                object.set_defaults();
                let violations = object.validate();
                (!violations.is_empty()).then(|| declared.explain(&violations).to_string())
            })
            .collect();
        errors.extend(declared_twice(&declared, namespace));
        if !errors.is_empty() {
            bail!("nothing was sent:\n{}", errors.join("\n"));
        }
        Ok(declared)
    }

    fn describe(&self) -> String {
        self.files
            .iter()
            .map(|path| path.display().to_string())
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn sources(&self, path: &Path) -> Result<Vec<Source>> {
        if path == Path::new("-") {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("cannot read standard input")?;
            return Ok(vec![Source {
                name: "standard input".into(),
                text,
            }]);
        }
        if !path.is_dir() {
            return Ok(vec![Source::read(path)?]);
        }
        let mut files = Vec::new();
        self.collect(path, &mut files)?;
        files.sort();
        files.iter().map(|file| Source::read(file)).collect()
    }

    fn collect(&self, folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
        let cannot_read = || format!("cannot read the folder {}", folder.display());
        for entry in fs::read_dir(folder).with_context(cannot_read)? {
            let path = entry.with_context(cannot_read)?.path();
            let is_manifest = path
                .extension()
                .is_some_and(|ext| ["yaml", "yml", "json"].iter().any(|e| ext == *e));
            if path.is_dir() {
                if self.recursive {
                    self.collect(&path, files)?;
                }
            } else if is_manifest {
                files.push(path);
            }
        }
        Ok(())
    }
}

/// What stands in two places. Of two declarations of one object each apply would undo what the other has just made.
fn declared_twice(declared: &[Declared], default: &str) -> Vec<String> {
    let mut first = HashMap::new();
    let mut errors = Vec::new();
    for one in declared {
        let object = &one.document.object;
        // A made name is another each time.
        if object.name().is_empty() {
            continue;
        }
        let namespace = Some(object.namespace()).filter(|namespace| !namespace.is_empty());
        match first.entry((object.kind(), namespace.unwrap_or(default), object.name())) {
            Entry::Vacant(entry) => {
                entry.insert(one);
            }
            Entry::Occupied(entry) => {
                let (place, label, before) = (one.place(), one.label(), entry.get().place());
                errors.push(format!("{place}: {label} is declared already ({before})"));
            }
        }
    }
    errors
}

#[derive(Debug)]
struct Source {
    name: String,
    text: String,
}

impl Source {
    fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let bytes = fs::read(path).with_context(|| format!("cannot read {name}"))?;
        let text = String::from_utf8(bytes).with_context(|| format!("{name}: is not UTF-8 text"))?;
        Ok(Self { name, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace;

    fn read(path: &Path, recursive: bool) -> Result<Vec<Declared>> {
        FileArgs {
            files: vec![path.to_owned()],
            recursive,
        }
        .read_valid(namespace::DEFAULT)
    }

    fn names(declared: &[Declared]) -> Vec<&str> {
        declared
            .iter()
            .map(|declared| declared.document.object.name())
            .collect()
    }

    fn config(name: &str) -> String {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n")
    }

    #[test]
    fn a_folder_is_read_in_the_order_of_its_names_with_namespaces_first() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("more")).unwrap();
        fs::write(
            folder.path().join("b.yaml"),
            format!("{}---\n{}", config("b1"), config("b2")),
        )
        .unwrap();
        fs::write(folder.path().join("a.yml"), config("a")).unwrap();
        fs::write(folder.path().join("notes.txt"), "not a manifest").unwrap();
        let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n";
        fs::write(folder.path().join("more/z.yaml"), namespace).unwrap();
        assert_eq!(names(&read(folder.path(), false).unwrap()), ["a", "b1", "b2"]);
        assert_eq!(names(&read(folder.path(), true).unwrap()), ["n", "a", "b1", "b2"]);
    }

    #[test]
    fn every_error_of_every_file_is_told_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a.yaml"), folder.path().join("b.yaml"));
        fs::write(&a, config("fine").replace("kind", "kin")).unwrap();
        fs::write(&b, "a: [").unwrap();
        let error = read(folder.path(), false).unwrap_err().to_string();
        let lines: Vec<_> = error.lines().collect();
        assert_eq!(lines[0], "nothing was sent:");
        assert!(lines[1].starts_with(&format!(
            "{}: document 1, line 1, column 1: kind: must be there",
            a.display()
        )));
        assert!(
            lines[2].starts_with(&format!("{}: document 1, line ", b.display())),
            "{error}"
        );

        fs::remove_file(&b).unwrap();
        fs::write(&a, config("Not_A_Name")).unwrap();
        let error = read(folder.path(), false).unwrap_err().to_string();
        assert!(
            error.contains("a.yaml: document 1, line 3, column 18: metadata.name: must consist of"),
            "{error}"
        );
    }

    #[test]
    fn an_object_that_is_declared_twice_is_told_with_both_places() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a.yaml"), folder.path().join("b.yaml"));
        fs::write(&a, format!("{}---\n{}", config("one"), config("two"))).unwrap();
        let named = |namespace| config("two").replace("two", &format!("two, namespace: {namespace}"));
        fs::write(&b, named("default")).unwrap();
        let error = read(folder.path(), false).unwrap_err().to_string();
        let (a, b) = (a.display(), b.display());
        assert_eq!(
            error,
            format!("nothing was sent:\n{b}: line 1: configmap/two is declared already ({a}: line 5)")
        );

        fs::write(folder.path().join("b.yaml"), named("shop")).unwrap();
        assert_eq!(names(&read(folder.path(), false).unwrap()), ["one", "two", "two"]);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = read(Path::new("/nowhere/pod.yaml"), false).unwrap_err();
        assert!(
            format!("{error:#}").starts_with("cannot read /nowhere/pod.yaml: "),
            "{error:#}"
        );
    }

    #[test]
    fn a_folder_without_manifests_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = read(folder.path(), false).unwrap_err().to_string();
        assert!(error.starts_with("no objects in "), "{error}");
    }
}
