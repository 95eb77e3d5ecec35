// Classify an image with ncnn, without Python: predict FILE.param FILE.bin INPUT
//
// INPUT is an image as the model takes it: 3 x side x side numbers in float32, as written on any machine by
//     python predict.py --save-input INPUT IMAGE
// An application makes them by the steps in README.md. Printed are the numbers of the best five classes, which
// are places in `labels` of manifest.json, with their logits.
//
// g++ -O2 -fopenmp -o predict predict_ncnn.cpp -lncnn

#include <ncnn/net.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <numeric>
#include <string>
#include <vector>

static int complain(const char* what, const char* name)
{
    std::fprintf(stderr, "predict: %s: %s\n", name, what);
    return 2;
}

static std::vector<float> numbers_in(const char* path)
{
    std::ifstream file(path, std::ios::binary);
    std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    std::vector<float> numbers(bytes.size() / sizeof(float));
    std::memcpy(numbers.data(), bytes.data(), numbers.size() * sizeof(float));
    return numbers;
}

// The side that the graph was made for; 0 if it does not say. ncnn would compute something from another one, too.
static int side_of(const char* path)
{
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        const size_t place = line.find(" 0=");
        if (line.compare(0, 6, "Input ") == 0 && place != std::string::npos)
            return std::atoi(line.c_str() + place + 3);
    }
    return 0;
}

int main(int count, char** arguments)
{
    if (count != 4)
        return complain("FILE.param FILE.bin INPUT", "takes");
    const char *graph = arguments[1], *weights = arguments[2], *input = arguments[3];

    const std::vector<float> numbers = numbers_in(input);
    const int side = static_cast<int>(std::lround(std::sqrt(numbers.size() / 3.0)));
    if (side == 0 || numbers.size() != 3u * side * side)
        return complain("not 3 x side x side numbers in float32", input);
    if (side_of(graph) != 0 && side_of(graph) != side)
        return complain("of another side than the model takes", input);

    ncnn::Net net;
    // Where a processor computes in fp16, ncnn does so with every model unless it is told not to.
    const bool half = std::strstr(graph, ".fp16.") != nullptr;
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = half;
    if (net.load_param(graph) != 0)
        return complain("cannot be loaded", graph);
    if (net.load_model(weights) != 0)
        return complain("cannot be loaded", weights);

    ncnn::Mat image(side, side, 3);
    // Channels begin at multiples of 16 bytes there.
    for (int channel = 0; channel < 3; channel++)
        std::memcpy(image.channel(channel), numbers.data() + channel * side * side, side * side * sizeof(float));

    ncnn::Extractor extractor = net.create_extractor();
    ncnn::Mat logits;
    if (extractor.input("input", image) != 0 || extractor.extract("logits", logits) != 0)
        return complain("cannot be computed from this input", graph);

    const float* values = logits;
    std::vector<int> classes(logits.w);
    std::iota(classes.begin(), classes.end(), 0);
    std::stable_sort(classes.begin(), classes.end(), [values](int a, int b) { return values[a] > values[b]; });
    for (size_t place = 0; place < classes.size() && place < 5; place++)
        std::printf("%d\t%.6f\n", classes[place], values[classes[place]]);
    return 0;
}
