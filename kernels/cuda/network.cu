// Networks on the scalars of an atom that end in one number, with their gradient.
//
// A block of threads works on `atoms` atoms. Shared memory holds, for each, the arguments of all activations, their values, and two rows of
// cotangents. Threads share out (atom, channel); every number is summed by one thread, in the order of the channels.
#include "tesseral.cuh"
#include "activation.cuh"

#define THREADS 128
#define ABSENT 0xffffffffu

// One layer: weights [n_in][n_out] from `weights` on, a bias from `bias` on unless it is ABSENT; its arguments and values lie from `place` on.
struct Layer {
    u32 n_in, n_out, weights, bias, kind, place;
};

// energies[i] += network(x[i]), dx[i] += seeds[i] gradient; x and dx are rows of `stride` numbers, of which the network reads those from
// `offset` on. `room` is the number of arguments of an atom, `width` the most that a layer takes or gives; factors[l] multiplies activation l.
extern "C" __global__ void __launch_bounds__(THREADS) network(
    const real *x, u32 stride, u32 offset, const real *seeds, const u32 *table, const real *factors, u32 count, const real *parameters,
    double *energies, real *dx, u32 n, u32 atoms, u32 room, u32 width) {
    const Layer *layers = reinterpret_cast<const Layer *>(table);
    TESSERAL_SHARED(real, shared);
    real *arguments = shared;
    real *values = arguments + atoms * room;
    real *cotangents = values + atoms * room;
    const u32 first = blockIdx.x * atoms;
    const u32 here = n - first < atoms ? n - first : atoms;

    for (u32 l = 0; l < count; l++) {
        const Layer layer = layers[l];
        const real *w = parameters + layer.weights;
        for (u32 k = threadIdx.x; k < here * layer.n_out; k += THREADS) {
            const u32 atom = k / layer.n_out, c = k - atom * layer.n_out;
            const real *in = l == 0 ? x + (size_t)(first + atom) * stride + offset : values + atom * room + layers[l - 1].place;
            real sum = 0;
            for (u32 u = 0; u < layer.n_in; u++) sum += in[u] * w[u * layer.n_out + c];
            if (layer.bias != ABSENT) sum += parameters[layer.bias + c];
            arguments[atom * room + layer.place + c] = sum;
            values[atom * room + layer.place + c] = factors[l] * activation_value(layer.kind, sum);
        }
        __syncthreads();
    }

    const Layer last = layers[count - 1];
    for (u32 atom = threadIdx.x; atom < here; atom += THREADS) {
        energies[first + atom] += (double)values[atom * room + last.place];
        cotangents[atom * width] =
            seeds[first + atom] * factors[count - 1] * activation_slope(last.kind, arguments[atom * room + last.place]);
    }
    __syncthreads();

    // The cotangents of a layer's arguments lie in one half of their room, those of the layer below are made in the other.
    for (u32 l = count; l-- > 0;) {
        const Layer layer = layers[l];
        const real *w = parameters + layer.weights;
        const real *g = cotangents + (count - 1 - l) % 2 * atoms * width;
        real *to = cotangents + (count - l) % 2 * atoms * width;
        for (u32 k = threadIdx.x; k < here * layer.n_in; k += THREADS) {
            const u32 atom = k / layer.n_in, u = k - atom * layer.n_in;
            real sum = 0;
            for (u32 c = 0; c < layer.n_out; c++) sum += g[atom * width + c] * w[u * layer.n_out + c];
            if (l == 0) {
                dx[(size_t)(first + atom) * stride + offset + u] += sum;
            } else {
                const Layer below = layers[l - 1];
                to[atom * width + u] = sum * factors[l - 1] * activation_slope(below.kind, arguments[atom * room + below.place + u]);
            }
        }
        __syncthreads();
    }
}
