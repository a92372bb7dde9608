//! The periodic table: symbols, names, masses, covalent radii.
//!
//! Masses are the conventional IUPAC 2016 atomic weights (in u; for elements without a stable isotope the mass of a
//! long-lived one), radii those of Cordero et al., Dalton Trans. 2008, 2832 (Å; 0.2 Å where there is none): the tables of ASE 3.29.

/// The largest atomic number that has a symbol here (oganesson).
pub const MAX_ATOMIC_NUMBER: u8 = 118;

/// What the table holds for one element.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Element {
    /// Chemical symbol, "X" for the placeholder with atomic number 0.
    pub symbol: &'static str,
    /// English name, lower case.
    pub name: &'static str,
    /// Atomic mass in u.
    pub mass: f64,
    /// Covalent radius in Å; 0.2 where none is published.
    pub covalent_radius: f64,
}

/// The entry of an atomic number; 0 is the placeholder "X", above 118 there is none.
pub fn element(atomic_number: u8) -> Option<&'static Element> {
    TABLE.get(usize::from(atomic_number))
}

/// The symbol of an atomic number, "X" for 0, `None` above 118.
pub fn symbol(atomic_number: u8) -> Option<&'static str> {
    element(atomic_number).map(|e| e.symbol)
}

/// The English name of an atomic number, `None` above 118.
pub fn name(atomic_number: u8) -> Option<&'static str> {
    element(atomic_number).map(|e| e.name)
}

/// The mass in u, `None` above 118.
pub fn mass(atomic_number: u8) -> Option<f64> {
    element(atomic_number).map(|e| e.mass)
}

/// The covalent radius in Å, `None` above 118.
pub fn covalent_radius(atomic_number: u8) -> Option<f64> {
    element(atomic_number).map(|e| e.covalent_radius)
}

/// The atomic number of a symbol in any mixture of upper and lower case ("Si", "si", "SI"); "X" is 0.
pub fn atomic_number(symbol: &str) -> Option<u8> {
    let bytes = symbol.as_bytes();
    let (first, second) = match bytes {
        [a] => (a.to_ascii_uppercase(), 0),
        [a, b] => (a.to_ascii_uppercase(), b.to_ascii_lowercase()),
        _ => return None,
    };
    if !first.is_ascii_uppercase() || (second != 0 && !second.is_ascii_lowercase()) {
        return None;
    }
    let row = usize::from(first - b'A');
    let column = if second == 0 { 0 } else { usize::from(second - b'a') + 1 };
    let found = NUMBERS[row][column];
    (found != NO_ELEMENT).then_some(found)
}

const NO_ELEMENT: u8 = u8::MAX;

/// Atomic numbers by first and second letter of the symbol (column 0: no second letter).
const NUMBERS: [[u8; 27]; 26] = {
    let mut numbers = [[NO_ELEMENT; 27]; 26];
    let mut z = 0;
    while z < TABLE.len() {
        let symbol = TABLE[z].symbol.as_bytes();
        let column = if symbol.len() == 1 { 0 } else { (symbol[1] - b'a') as usize + 1 };
        numbers[(symbol[0] - b'A') as usize][column] = z as u8;
        z += 1;
    }
    numbers
};

const fn entry(symbol: &'static str, name: &'static str, mass: f64, covalent_radius: f64) -> Element {
    Element { symbol, name, mass, covalent_radius }
}

#[rustfmt::skip]
const TABLE: [Element; 119] = [
    entry("X", "placeholder", 0.0, 0.2),
    entry("H", "hydrogen", 1.008, 0.31),
    entry("He", "helium", 4.002602, 0.28),
    entry("Li", "lithium", 6.94, 1.28),
    entry("Be", "beryllium", 9.0121831, 0.96),
    entry("B", "boron", 10.81, 0.84),
    entry("C", "carbon", 12.011, 0.76),
    entry("N", "nitrogen", 14.007, 0.71),
    entry("O", "oxygen", 15.999, 0.66),
    entry("F", "fluorine", 18.998403163, 0.57),
    entry("Ne", "neon", 20.1797, 0.58),
    entry("Na", "sodium", 22.98976928, 1.66),
    entry("Mg", "magnesium", 24.305, 1.41),
    entry("Al", "aluminium", 26.9815385, 1.21),
    entry("Si", "silicon", 28.085, 1.11),
    entry("P", "phosphorus", 30.973761998, 1.07),
    entry("S", "sulfur", 32.06, 1.05),
    entry("Cl", "chlorine", 35.45, 1.02),
    entry("Ar", "argon", 39.948, 1.06),
    entry("K", "potassium", 39.0983, 2.03),
    entry("Ca", "calcium", 40.078, 1.76),
    entry("Sc", "scandium", 44.955908, 1.7),
    entry("Ti", "titanium", 47.867, 1.6),
    entry("V", "vanadium", 50.9415, 1.53),
    entry("Cr", "chromium", 51.9961, 1.39),
    entry("Mn", "manganese", 54.938044, 1.39),
    entry("Fe", "iron", 55.845, 1.32),
    entry("Co", "cobalt", 58.933194, 1.26),
    entry("Ni", "nickel", 58.6934, 1.24),
    entry("Cu", "copper", 63.546, 1.32),
    entry("Zn", "zinc", 65.38, 1.22),
    entry("Ga", "gallium", 69.723, 1.22),
    entry("Ge", "germanium", 72.63, 1.2),
    entry("As", "arsenic", 74.921595, 1.19),
    entry("Se", "selenium", 78.971, 1.2),
    entry("Br", "bromine", 79.904, 1.2),
    entry("Kr", "krypton", 83.798, 1.16),
    entry("Rb", "rubidium", 85.4678, 2.2),
    entry("Sr", "strontium", 87.62, 1.95),
    entry("Y", "yttrium", 88.90584, 1.9),
    entry("Zr", "zirconium", 91.224, 1.75),
    entry("Nb", "niobium", 92.90637, 1.64),
    entry("Mo", "molybdenum", 95.95, 1.54),
    entry("Tc", "technetium", 97.90721, 1.47),
    entry("Ru", "ruthenium", 101.07, 1.46),
    entry("Rh", "rhodium", 102.9055, 1.42),
    entry("Pd", "palladium", 106.42, 1.39),
    entry("Ag", "silver", 107.8682, 1.45),
    entry("Cd", "cadmium", 112.414, 1.44),
    entry("In", "indium", 114.818, 1.42),
    entry("Sn", "tin", 118.71, 1.39),
    entry("Sb", "antimony", 121.76, 1.39),
    entry("Te", "tellurium", 127.6, 1.38),
    entry("I", "iodine", 126.90447, 1.39),
    entry("Xe", "xenon", 131.293, 1.4),
    entry("Cs", "caesium", 132.90545196, 2.44),
    entry("Ba", "barium", 137.327, 2.15),
    entry("La", "lanthanum", 138.90547, 2.07),
    entry("Ce", "cerium", 140.116, 2.04),
    entry("Pr", "praseodymium", 140.90766, 2.03),
    entry("Nd", "neodymium", 144.242, 2.01),
    entry("Pm", "promethium", 144.91276, 1.99),
    entry("Sm", "samarium", 150.36, 1.98),
    entry("Eu", "europium", 151.964, 1.98),
    entry("Gd", "gadolinium", 157.25, 1.96),
    entry("Tb", "terbium", 158.92535, 1.94),
    entry("Dy", "dysprosium", 162.5, 1.92),
    entry("Ho", "holmium", 164.93033, 1.92),
    entry("Er", "erbium", 167.259, 1.89),
    entry("Tm", "thulium", 168.93422, 1.9),
    entry("Yb", "ytterbium", 173.054, 1.87),
    entry("Lu", "lutetium", 174.9668, 1.87),
    entry("Hf", "hafnium", 178.49, 1.75),
    entry("Ta", "tantalum", 180.94788, 1.7),
    entry("W", "tungsten", 183.84, 1.62),
    entry("Re", "rhenium", 186.207, 1.51),
    entry("Os", "osmium", 190.23, 1.44),
    entry("Ir", "iridium", 192.217, 1.41),
    entry("Pt", "platinum", 195.084, 1.36),
    entry("Au", "gold", 196.966569, 1.36),
    entry("Hg", "mercury", 200.592, 1.32),
    entry("Tl", "thallium", 204.38, 1.45),
    entry("Pb", "lead", 207.2, 1.46),
    entry("Bi", "bismuth", 208.9804, 1.48),
    entry("Po", "polonium", 208.98243, 1.4),
    entry("At", "astatine", 209.98715, 1.5),
    entry("Rn", "radon", 222.01758, 1.5),
    entry("Fr", "francium", 223.01974, 2.6),
    entry("Ra", "radium", 226.02541, 2.21),
    entry("Ac", "actinium", 227.02775, 2.15),
    entry("Th", "thorium", 232.0377, 2.06),
    entry("Pa", "protactinium", 231.03588, 2.0),
    entry("U", "uranium", 238.02891, 1.96),
    entry("Np", "neptunium", 237.04817, 1.9),
    entry("Pu", "plutonium", 244.06421, 1.87),
    entry("Am", "americium", 243.06138, 1.8),
    entry("Cm", "curium", 247.07035, 1.69),
    entry("Bk", "berkelium", 247.07031, 2.0),
    entry("Cf", "californium", 251.07959, 2.0),
    entry("Es", "einsteinium", 252.083, 2.0),
    entry("Fm", "fermium", 257.09511, 2.0),
    entry("Md", "mendelevium", 258.09843, 2.0),
    entry("No", "nobelium", 259.101, 2.0),
    entry("Lr", "lawrencium", 262.11, 2.0),
    entry("Rf", "rutherfordium", 267.122, 2.0),
    entry("Db", "dubnium", 268.126, 2.0),
    entry("Sg", "seaborgium", 271.134, 2.0),
    entry("Bh", "bohrium", 270.133, 2.0),
    entry("Hs", "hassium", 269.1338, 2.0),
    entry("Mt", "meitnerium", 278.156, 2.0),
    entry("Ds", "darmstadtium", 281.165, 2.0),
    entry("Rg", "roentgenium", 281.166, 2.0),
    entry("Cn", "copernicium", 285.177, 2.0),
    entry("Nh", "nihonium", 286.182, 2.0),
    entry("Fl", "flerovium", 289.19, 2.0),
    entry("Mc", "moscovium", 289.194, 2.0),
    entry("Lv", "livermorium", 293.204, 2.0),
    entry("Ts", "tennessine", 293.208, 2.0),
    entry("Og", "oganesson", 294.214, 2.0),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_symbols_are_inverse() {
        for z in 0..=MAX_ATOMIC_NUMBER {
            let symbol = symbol(z).unwrap();
            assert_eq!(atomic_number(symbol), Some(z));
            assert_eq!(atomic_number(&symbol.to_lowercase()), Some(z));
            assert_eq!(atomic_number(&symbol.to_uppercase()), Some(z));
            assert!(z == 0 || mass(z).unwrap() > 1.0);
            assert!(covalent_radius(z).unwrap() > 0.1);
        }
        assert_eq!(symbol(119), None);
    }

    #[test]
    fn landmarks() {
        for (z, expected) in [(1, "H"), (14, "Si"), (26, "Fe"), (57, "La"), (72, "Hf"), (92, "U"), (118, "Og")] {
            assert_eq!(symbol(z), Some(expected));
        }
        assert_eq!(name(74), Some("tungsten"));
        assert_eq!(mass(8), Some(15.999));
        assert_eq!(covalent_radius(6), Some(0.76));
    }

    #[test]
    fn what_is_not_a_symbol() {
        for text in ["", "A", "Abc", "D", "Zz", "é", "1", "S1", "-", "H ", "\u{0}"] {
            assert_eq!(atomic_number(text), None, "{text:?}");
        }
    }
}
