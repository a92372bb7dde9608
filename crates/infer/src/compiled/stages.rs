//! Where the time of a step goes.

use std::time::Instant;

/// Parts of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Listing neighbours and building tables, when needed.
    Lists,
    /// Edge vectors, harmonics, places in the tables.
    Geometry,
    /// Messages.
    Convolution,
    /// Linear maps, products, gates.
    Node,
    /// Their adjoint, and the readouts.
    NodeAdjoint,
    /// The adjoint of the messages.
    ConvolutionAdjoint,
    /// Joining cotangents of the domains.
    Join,
    /// Forces and stress from the derivatives by edge vectors.
    Forces,
}

impl Stage {
    /// All of them, in the order of a step.
    pub const ALL: [Self; 8] =
        [Self::Lists, Self::Geometry, Self::Convolution, Self::Node, Self::NodeAdjoint, Self::ConvolutionAdjoint, Self::Join, Self::Forces];

    /// For people and for JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lists => "neighbour lists",
            Self::Geometry => "geometry",
            Self::Convolution => "convolution",
            Self::Node => "node",
            Self::NodeAdjoint => "node adjoint",
            Self::ConvolutionAdjoint => "convolution adjoint",
            Self::Join => "join",
            Self::Forces => "forces",
        }
    }
}

/// Seconds by stage, added up over threads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    last: Instant,
    pub(super) seconds: [f64; Stage::ALL.len()],
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { last: Instant::now(), seconds: [0.0; Stage::ALL.len()] }
    }

    pub(super) fn start(&mut self) {
        self.last = Instant::now();
    }

    /// Ends a stage, and starts the next.
    pub(super) fn end(&mut self, stage: Stage) {
        let now = Instant::now();
        self.seconds[stage as usize] += (now - self.last).as_secs_f64();
        self.last = now;
    }
}
