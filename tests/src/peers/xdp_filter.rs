//! The program of xdp-filter (Debian's xdp-tools) with all its features: it looks each frame up by
//! hardware addresses, network addresses and ports. Its tables are as `xdp-filter load` leaves them:
//! empty, so that it passes everything.

use std::{fs, path::PathBuf};

use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramInfo, TestRun as _, TestRunOptions, Xdp},
};

/// Its name in tables.
pub const XDP_FILTER: &str = "xdp-filter";
/// Policy "allow", all features.
const OBJECT: &str = "bpf/xdpfilt_alw_all.o";

/// The loaded program with its tables.
pub struct XdpFilter(Ebpf);

impl XdpFilter {
    /// Loads the program from Debian's package.
    pub fn load() -> Self {
        // Debian has a directory for each kind of machine.
        let found = fs::read_dir("/usr/lib").expect("read /usr/lib").filter_map(Result::ok);
        let object: PathBuf = found
            .map(|entry| entry.path().join(OBJECT))
            .find(|path| path.is_file())
            .unwrap_or_else(|| panic!("no /usr/lib/*/{OBJECT}: install the package xdp-tools"));
        // The object pins its tables by their names. They are needed no longer than the program.
        let pins = PathBuf::from(format!("/sys/fs/bpf/jit-bench-{}", std::process::id()));
        fs::create_dir_all(&pins).expect("make a directory for pins");
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(&pins);
        let loaded = loader.allow_unsupported_maps().load_file(&object);
        fs::remove_dir_all(&pins).expect("remove the pins");
        let mut filter = Self(loaded.unwrap_or_else(|error| panic!("{object:?}: {error}")));
        filter.program().load().expect("xdp-filter loads");
        filter
    }

    /// The program, to attach it.
    pub fn program(&mut self) -> &mut Xdp {
        let (_, program) = self.0.programs_mut().next().expect("one program");
        program.try_into().expect("an XDP program")
    }

    /// What the kernel says about the program.
    pub fn info(&self) -> ProgramInfo {
        self.xdp().info().expect("program info")
    }

    /// The program's answer to a frame, and the nanoseconds of a run, the mean of `repeat` runs.
    pub fn run(&self, frame: &[u8], repeat: u32) -> (u32, f64) {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::new() };
        let result = self.xdp().test_run(options).expect("BPF_PROG_TEST_RUN of xdp-filter");
        (result.return_value, result.duration.as_secs_f64() * 1e9)
    }

    fn xdp(&self) -> &Xdp {
        let (_, program) = self.0.programs().next().expect("one program");
        program.try_into().expect("an XDP program")
    }
}
