//! The three places where a packet program can be attached.

use std::any::Any;

use aya::programs::XdpMode;
use jit_agent::kernel::datapath::object::PROGRAM_TC;
use jit_tests::{
    kernel::{Kernel, xdp_programs},
    netns::Namespace,
};

/// An attached program: it is detached when this is dropped.
pub(crate) type Attached = Box<dyn Any + Send>;

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    Generic,
    Native,
    Tc,
}

impl Hook {
    pub(crate) const ALL: [Self; 3] = [Self::Generic, Self::Native, Self::Tc];

    /// The program that the agent would choose.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Generic => xdp_programs().next().unwrap(),
            Self::Native => xdp_programs().last().unwrap(),
            Self::Tc => PROGRAM_TC,
        }
    }

    /// Attaches a program to an interface in a namespace.
    pub(crate) fn attach(
        self,
        kernel: &mut Kernel,
        program: &str,
        namespace: &Namespace,
        interface: &str,
    ) -> Attached {
        let index = namespace.index(interface);
        namespace.run(|| match self {
            Self::Generic => Box::new(kernel.attach(program, index, XdpMode::Skb)),
            Self::Native => Box::new(kernel.attach(program, index, XdpMode::Driver)),
            Self::Tc => kernel.attach_tc(interface),
        })
    }
}
