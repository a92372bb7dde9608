fn main() {
    let f = std::env::args().nth(1).unwrap();
    let c = tesseral_import::ForeignCheckpoint::open(&f).unwrap_or_else(|e| panic!("{e} {:?}", e.hint()));
    println!("{}", c.describe(tesseral_import::torch::describe::Detail { depth: 12, lines: 100000, elements: 8 }));
}
