// The command line through CLI11, the one place that includes it.
#include "app/command_line.hpp"

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string_view>
#include <type_traits>
#include <utility>

#include "core/error.hpp"

namespace moekv {
namespace {

std::vector<CLI::App*> subcommands_of(CLI::App& app) {
  return app.get_subcommands([](const CLI::App* command) { return !command->get_name().empty(); });
}

/// Follows the names of subcommands on the command line; the last of them. Throws where the next word ought to be one and is none.
CLI::App& check_subcommands(CLI::App& program, int argc, char** argv) {
  CLI::App* app = &program;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const std::vector<CLI::App*> commands = subcommands_of(*app);
    if (commands.empty() || word.starts_with('-')) break;
    std::vector<std::string> names;
    for (CLI::App* command : commands) {
      if (command->get_name() == word) app = command;
      names.push_back(command->get_name());
    }
    if (app->get_name() != word) throw CommandLineError("unknown subcommand '" + word + "': " + suggest_name(word, {names.begin(), names.end()}));
  }
  return *app;
}

/// What is wrong with arguments that nobody expected.
std::string about_extras(const CLI::App& app, const std::string& otherwise) {
  const std::vector<std::string> extras = app.remaining(true);
  if (extras.empty() || !extras.front().starts_with("--")) return otherwise;
  const std::string word = extras.front().substr(2, extras.front().find('=') - 2);
  std::vector<std::string_view> known;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) known.emplace_back(name);
  }
  const std::string_view near = nearest_name(word, known);
  return "unknown option '--" + word + "'" + (near.empty() ? "" : ", did you mean '--" + std::string(near) + "'?");
}

}  // namespace

Option* Option::required() {
  option_->required();
  return this;
}
Option* Option::capture_default_str() {
  option_->capture_default_str();
  return this;
}
Option* Option::needs(const Option* other) {
  option_->needs(other->option_);
  return this;
}
Option* Option::excludes(const Option* other) {
  option_->excludes(other->option_);
  return this;
}
Option* Option::one_of(const std::vector<std::string>& values) {
  option_->check(CLI::IsMember(values));
  return this;
}
Option* Option::between(double lowest, double highest) {
  option_->check(CLI::Range(lowest, highest));
  return this;
}
Option* Option::delimiter(char c) {
  option_->delimiter(c);
  return this;
}

Option* Option::hidden() {
  option_->group("");
  return this;
}

Command::Command() = default;
Command::~Command() = default;

Option* Command::keep(CLI::Option* option) {
  options_.push_back(std::make_unique<Option>());
  options_.back()->option_ = option;
  return options_.back().get();
}

Command* Command::keep_command(CLI::App* app) {
  commands_.push_back(std::unique_ptr<Command>(new Command));
  commands_.back()->app_ = app;
  return commands_.back().get();
}

Command* Command::add_subcommand(const std::string& name, const std::string& doc) { return keep_command(app_->add_subcommand(name, doc)); }
Command* Command::add_option_group(const std::string& name) {
  CLI::App* group = app_->add_option_group(name);
  return keep_command(group);
}

template <class T>
Option* Command::add_option(const std::string& names, T& value, const std::string& doc) {
  CLI::Option* option = app_->add_option(names, value, doc);
  if constexpr (std::is_unsigned_v<T>)  // the parser takes -1 for the largest number
    option->check([](const std::string& word) { return word.starts_with('-') ? "'" + word + "' is negative" : std::string(); });
  return keep(option);
}
template Option* Command::add_option(const std::string&, std::string&, const std::string&);
template Option* Command::add_option(const std::string&, std::int32_t&, const std::string&);
template Option* Command::add_option(const std::string&, std::uint32_t&, const std::string&);
template Option* Command::add_option(const std::string&, std::int64_t&, const std::string&);
template Option* Command::add_option(const std::string&, std::uint64_t&, const std::string&);
template Option* Command::add_option(const std::string&, double&, const std::string&);
template Option* Command::add_option(const std::string&, std::vector<std::string>&, const std::string&);
template Option* Command::add_option(const std::string&, std::vector<std::uint16_t>&, const std::string&);
template Option* Command::add_option(const std::string&, std::vector<std::uint32_t>&, const std::string&);

Option* Command::add_flag(const std::string& names, bool& value, const std::string& doc) { return keep(app_->add_flag(names, value, doc)); }
void Command::footer(const std::string& text) { app_->footer(text); }
void Command::callback(std::function<void()> chosen) { app_->callback(std::move(chosen)); }
void Command::require_subcommand(int n) { app_->require_subcommand(n); }
void Command::require_option(int n) { app_->require_option(n); }
void Command::version(const std::string& text) { app_->set_version_flag("--version", text + "\n", "Print version and build, and exit"); }

CommandLine::CommandLine(const std::string& doc, const std::string& name) { program_.app_ = new CLI::App(doc, name); }
CommandLine::~CommandLine() { delete program_.app_; }

std::string CommandLine::parse(int argc, char** argv) {
  CLI::App& app = *program_.app_;
  const CLI::App& chosen = check_subcommands(app, argc, argv);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return app.help();
  } catch (const CLI::Success& e) {
    return e.what();
  } catch (const CLI::ExtrasError& e) {
    throw CommandLineError(about_extras(chosen, e.what()));
  } catch (const CLI::ParseError& e) {
    throw CommandLineError(e.what());
  }
  return {};
}

}  // namespace moekv
