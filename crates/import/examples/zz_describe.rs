//! scratch
fn main() {
    for f in std::env::args().skip(1) {
        let a = match tesseral_import::import(std::path::Path::new(&f)) { Ok(a) => a, Err(e) => { println!("{f}: {e}\n   hint {:?}", e.hint()); continue } };
        let mut out = String::new();
        for n in a.names().map(str::to_owned).collect::<Vec<_>>() {
            if n.contains(".basis.") {
                let s = a.shape(&n).unwrap().to_vec();
                let v = a.f64(&n).unwrap();
                let strong = (0..s[1]).filter(|t| (0..s[0]).any(|m| (0..s[2]).any(|p| v[(m * s[1] + t) * s[2] + p].abs() > 1e-5))).count();
                let tiny = v.iter().filter(|x| **x != 0.0 && x.abs() < 1e-5).count();
                let nz = v.iter().filter(|x| **x != 0.0).count();
                out += &format!("{n} {s:?} terms {} strong {strong}; nonzero {nz} tiny {tiny}\n", s[1]);
            }
        }
        println!("{f} {} MB\n{out}", a.num_bytes() as f64 / 1e6);
    }
}
