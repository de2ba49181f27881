// The wish to end: the first SIGINT, SIGTERM or SIGUSR1 asks for it, one that comes two seconds later or more ends the program at once.
#pragma once

namespace moekv {

enum class StopSignals : unsigned char { terminate, terminate_and_user };  // with SIGUSR1: what a batch system sends before its limit

void catch_stop_signals(StopSignals which = StopSignals::terminate);
[[nodiscard]] bool stop_requested();
/// Name of the signal that asked; empty where none did.
[[nodiscard]] const char* stop_reason();

}  // namespace moekv
