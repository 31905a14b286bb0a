// llama_tokens MODEL.gguf < TEXTS: the ids of texts that end in a zero byte each, a line of ids per text; special tokens in a text count as such.
// llama_tokens MODEL.gguf COUNT [SWITCH=VALUE..] < TEXTS: after each text's ids a bar and the COUNT likeliest tokens, one after the other, on one
// thread. Switches, all of them llama.cpp's own: threads=N, flash=0|1, ubatch=N, kv=f16|f32|q8_0, repack=0|1.
//
//     g++ -O2 -std=c++17 -I llama.cpp/include -I llama.cpp/ggml/include llama_tokens.cpp build/src/libllama.a build/ggml/src/libggml.a \
//         build/ggml/src/libggml-cpu.a build/ggml/src/libggml-base.a -lgomp -lpthread -ldl -o llama_tokens
#include "llama.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

// Value of a switch, or `otherwise`.
static const char * value_of(int argc, char ** argv, const char * name, const char * otherwise) {
    const size_t length = strlen(name);
    for (int i = 3; i < argc; i++) if (!strncmp(argv[i], name, length) && argv[i][length] == '=') return argv[i] + length + 1;
    return otherwise;
}

int main(int argc, char ** argv) {
    if (argc < 2) return 2;
    const int count = argc > 2 ? atoi(argv[2]) : 0;
    llama_log_set([](ggml_log_level level, const char * text, void *) { if (level >= GGML_LOG_LEVEL_ERROR) fputs(text, stderr); }, nullptr);
    llama_backend_init();
    auto params = llama_model_default_params();
    params.vocab_only = count == 0;
    params.use_extra_bufts = atoi(value_of(argc, argv, "repack", "1"));
    const std::string kv = value_of(argc, argv, "kv", "f16");
    llama_model * model = llama_model_load_from_file(argv[1], params);
    if (!model) return 1;
    const llama_vocab * vocab = llama_model_get_vocab(model);
    std::string all((std::istreambuf_iterator<char>(std::cin)), std::istreambuf_iterator<char>());
    for (size_t at = 0; at < all.size();) {
        const std::string text = all.c_str() + at;
        at += text.size() + 1;
        std::vector<llama_token> ids(text.size() + 16);
        const int n = llama_tokenize(vocab, text.c_str(), text.size(), ids.data(), ids.size(), count > 0, true);
        if (n < 0) return 1;
        ids.resize(n);
        for (int id : ids) printf("%d ", id);
        if (count > 0) {
            auto settings = llama_context_default_params();
            settings.n_ctx = ids.size() + count;
            settings.n_threads = settings.n_threads_batch = atoi(value_of(argc, argv, "threads", "1"));
            settings.n_ubatch = atoi(value_of(argc, argv, "ubatch", "512"));
            settings.flash_attn_type = (llama_flash_attn_type) atoi(value_of(argc, argv, "flash", "-1"));
            settings.type_k = settings.type_v = kv == "f32" ? GGML_TYPE_F32 : kv == "q8_0" ? GGML_TYPE_Q8_0 : GGML_TYPE_F16;
            llama_context * context = llama_init_from_model(model, settings);
            if (!context) return 1;
            printf("| ");
            llama_batch batch = llama_batch_get_one(ids.data(), ids.size());
            llama_token next = 0;
            for (int i = 0; i < count; i++) {
                if (llama_decode(context, batch)) return 1;
                const float * logits = llama_get_logits_ith(context, -1);
                for (int id = next = 0; id < llama_vocab_n_tokens(vocab); id++) if (logits[id] > logits[next]) next = id;
                printf("%d ", next);
                batch = llama_batch_get_one(&next, 1);
            }
            llama_free(context);
        }
        printf("\n");
    }
    return 0;
}
