//! Every manifest in `examples/` is one.

use std::{fs, path::Path};

use clone8s::manifest;

#[test]
fn every_example_is_a_valid_manifest() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        if let Err(errors) = manifest::parse_valid(&path.to_string_lossy(), &text) {
            panic!("{errors}");
        }
        seen += 1;
    }
    assert!(seen >= 5, "{seen} examples");
}
