//! Runs every corpus file of the fuzz targets, also old crashes, through the same functions. This
//! needs no fuzzer.

use std::{fs, path::Path};

#[expect(unreachable_pub, reason = "the fuzz targets are another crate")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

#[test]
fn every_corpus_file_is_judged_without_a_panic() {
    for (name, run) in targets::TARGETS {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut files = 0;
        for file in fs::read_dir(&directory).unwrap() {
            let path = file.unwrap().path();
            println!("{}", path.display());
            run(&fs::read(&path).unwrap());
            files += 1;
        }
        assert!(files >= 3, "{files} files in {}", directory.display());
    }
}
