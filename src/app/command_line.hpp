// The program's command line as its subcommands see it. The parser's headers stay in command_line.cpp: every source that includes them compiles it
// anew.
#pragma once

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace CLI {  // NOLINT(readability-identifier-naming): the library's
class App;
class Option;
}  // namespace CLI

namespace moekv {

/// An option or positional argument of a command. Changes return the option itself; it lives as long as its command.
class Option {
 public:
  Option* required();
  /// Shows the variable's present value as the default.
  Option* capture_default_str();
  /// Only together with `other`.
  Option* needs(const Option* other);
  /// Never together with `other`.
  Option* excludes(const Option* other);
  Option* one_of(const std::vector<std::string>& values);
  Option* between(double lowest, double highest);
  /// A list may be written in one argument, divided by this.
  Option* delimiter(char c);
  /// Left out of the help: for what the program itself passes on.
  Option* hidden();

 private:
  friend class Command;
  CLI::Option* option_ = nullptr;
};

/// The program, a subcommand, or a group of options.
class Command {
 public:
  ~Command();
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  Command* add_subcommand(const std::string& name, const std::string& doc);
  /// Options of which require_option(n) then allows n.
  Command* add_option_group(const std::string& name);
  /// `names` is "name" of a positional argument, or "--long,-l". T: std::string, 32 and 64 bit integers, double, and vectors of texts, 16 and 32 bit
  /// numbers; `value` outlives the parsing.
  template <class T>
  Option* add_option(const std::string& names, T& value, const std::string& doc);
  Option* add_flag(const std::string& names, bool& value, const std::string& doc);
  void footer(const std::string& text);
  void callback(std::function<void()> chosen);
  void require_subcommand(int n);
  void require_option(int n);
  /// What --version prints.
  void version(const std::string& text);

 private:
  friend class CommandLine;
  Command();
  Option* keep(CLI::Option* option);
  Command* keep_command(CLI::App* app);

  CLI::App* app_ = nullptr;
  std::vector<std::unique_ptr<Command>> commands_;
  std::vector<std::unique_ptr<Option>> options_;
};

/// What is wrong with the command line.
class CommandLineError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

class CommandLine {
 public:
  CommandLine(const std::string& doc, const std::string& name);
  ~CommandLine();
  CommandLine(const CommandLine&) = delete;
  CommandLine& operator=(const CommandLine&) = delete;

  [[nodiscard]] Command& program() { return program_; }
  /// The text to print where help was asked for, else empty, and the chosen command's callback has run. Throws CommandLineError.
  [[nodiscard]] std::string parse(int argc, char** argv);

 private:
  Command program_;
};

}  // namespace moekv
