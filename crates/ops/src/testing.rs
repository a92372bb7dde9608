//! What the tests of the operations share: random tensors, finite differences of taped functions, thread pools.

use candle_core::{DType, Device, Result, Tensor, Var};

pub(crate) use tesseral_testkit::relative_error;

/// A deterministic stream of numbers in (-1, 1), and tensors of them.
pub(crate) struct Random(tesseral_testkit::Random);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(tesseral_testkit::Random::new(seed))
    }

    pub(crate) fn next(&mut self) -> f64 {
        self.0.number()
    }

    pub(crate) fn vec(&mut self, n: usize) -> Vec<f64> {
        self.0.numbers(n)
    }

    pub(crate) fn tensor(&mut self, shape: &[usize], dtype: DType) -> Tensor {
        let n = shape.iter().product();
        Tensor::from_vec(self.vec(n), shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    }
}

pub(crate) fn to_vec(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Checks d(Σ w·f)/d(inputs) against central differences in f64, then the derivative of Σ v·(that gradient) likewise.
///
/// `f` maps f64 tensors to one f64 tensor. The weights w, v are random so that every output and every gradient component counts.
pub(crate) fn check_derivatives(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>, second: bool) {
    let mut random = Random::new(77);
    let out = f(inputs).unwrap();
    let w = random.tensor(out.dims(), DType::F64);
    let v: Vec<Tensor> = inputs.iter().map(|t| random.tensor(t.dims(), DType::F64)).collect();
    let scalar = |x: &[Tensor]| (f(x)? * &w)?.sum_all();
    check_scalar(inputs, &scalar, 1e-8, "first derivative");
    if second {
        assert!(crate::autograd::second_derivatives_enabled().unwrap(), "tests run with second derivatives on");
        let directional = |x: &[Tensor]| {
            // A Var of its own for each input, so that the gradient depends on `x` through the tape.
            let vars: Vec<Var> = x.iter().map(|t| Var::from_tensor(&t.detach())).collect::<Result<_>>()?;
            let tracked: Vec<Tensor> = vars.iter().map(|p| p.as_tensor().clone()).collect();
            let grads = scalar(&tracked)?.backward()?;
            let mut total = Tensor::new(0f64, &Device::Cpu)?;
            for (var, v) in vars.iter().zip(&v) {
                if let Some(g) = grads.get(var) {
                    total = (total + (g * v)?.sum_all()?)?;
                }
            }
            Result::Ok((total, vars))
        };
        let (value, vars) = directional(inputs).unwrap();
        assert!(value.to_scalar::<f64>().unwrap() != 0.0);
        let second = value.backward().unwrap();
        for (k, var) in vars.iter().enumerate() {
            let zeros = vec![0.0; inputs[k].elem_count()];
            let got = second.get(var).map_or(zeros, to_vec);
            let want = numeric(inputs, k, 1e-5, |x| directional(x).unwrap().0.to_scalar::<f64>().unwrap());
            let error = relative_error(&got, &want);
            assert!(error < 1e-7, "second derivative with respect to input {k}: relative error {error:e}");
        }
    }
}

fn check_scalar(inputs: &[Tensor], scalar: &impl Fn(&[Tensor]) -> Result<Tensor>, tolerance: f64, what: &str) {
    let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(t).unwrap()).collect();
    let tracked: Vec<Tensor> = vars.iter().map(|p| p.as_tensor().clone()).collect();
    let grads = scalar(&tracked).unwrap().backward().unwrap();
    for (k, var) in vars.iter().enumerate() {
        let got = to_vec(grads.get(var).unwrap_or_else(|| panic!("no gradient for input {k}")));
        let want = numeric(inputs, k, 1e-5, |x| scalar(x).unwrap().to_scalar::<f64>().unwrap());
        assert!(want.is_empty() || want.iter().any(|x| x.abs() > 1e-6), "{what}: the gradient of input {k} is zero, nothing is tested");
        let error = relative_error(&got, &want);
        assert!(error < tolerance, "{what} with respect to input {k}: relative error {error:e}");
    }
}

fn numeric(inputs: &[Tensor], k: usize, h: f64, f: impl Fn(&[Tensor]) -> f64) -> Vec<f64> {
    let shape = inputs[k].dims().to_vec();
    tesseral_testkit::derivative(&to_vec(&inputs[k]), h, |moved| {
        let mut x: Vec<Tensor> = inputs.to_vec();
        x[k] = Tensor::from_slice(moved, shape.as_slice(), &Device::Cpu).unwrap();
        f(&x)
    })
}

/// Runs `f` on a pool of `threads` threads.
pub(crate) fn with_threads<T: Send>(threads: usize, f: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}
