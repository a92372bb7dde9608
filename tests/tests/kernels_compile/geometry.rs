//! Neighbour lists, edges, forces, pair repulsion and measured rates, which need no constants of a model.

use tesseral_kernels::edges::EdgeKernels;
use tesseral_kernels::forces::ForceKernels;
use tesseral_kernels::neighbors::DeviceList;
use tesseral_kernels::pairs::Repulsion;
use tesseral_kernels::{Real, Source, peak};

fn of<T: Real>() -> [Source; 4] {
    [EdgeKernels::<T>::source(), ForceKernels::<T>::source(), Repulsion::<T>::source(), peak::source::<T>()]
}

pub(super) fn sources() -> Vec<Source> {
    [of::<f32>(), of::<f64>()].into_iter().flatten().chain([DeviceList::source()]).collect()
}
