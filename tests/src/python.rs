//! A Python with the packages of tests/python/requirements.txt, for clients that share no code with
//! this repository.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use crate::controller::succeed;

/// What the tests of this crate import.
const IMPORTS: &str = "import azure.mgmt.security, cryptography, grpc, grpc_tools.protoc";

/// The Python that JIT_CLIENT_PYTHON names, or an environment in the target directory, made when it
/// is missing.
pub fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let named = env::var_os("JIT_CLIENT_PYTHON").map(PathBuf::from);
        if let Some(python) = named.filter(|python| has_packages(python)) {
            return python;
        }
        let this = env::current_exe().expect("the test's path");
        // target/<profile>/deps/<test>
        let target = this.ancestors().nth(3).expect("a target directory");
        let environment = target.join("client-venv");
        let python = environment.join("bin/python3");
        if !has_packages(&python) {
            let mut create = Command::new("python3");
            succeed(create.args(["-m", "venv", "--clear"]).arg(&environment));
            let mut install = Command::new(&python);
            install.args(["-m", "pip", "install", "--quiet", "--requirement"]);
            succeed(install.arg(script("requirements.txt")));
        }
        python
    })
}

/// A file of tests/python.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name)
}

fn has_packages(python: &Path) -> bool {
    let mut import = Command::new(python);
    import.args(["-c", IMPORTS]).stderr(Stdio::null());
    import.status().is_ok_and(|status| status.success())
}
