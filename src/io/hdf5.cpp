// Files and groups of the HDF5 layer.
#include "io/hdf5.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.hpp"
#include "io/guarded_driver.hpp"
#include "io/hdf5_detail.hpp"

namespace moekv::h5 {
namespace {

constexpr unsigned creation_order = H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED;

Handle access_list() {
  Handle list(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_libver_bounds(list.id(), H5F_LIBVER_EARLIEST, H5F_LIBVER_V110);
  H5Pset_fclose_degree(list.id(), H5F_CLOSE_STRONG);
  return list;
}

/// Says in words why a path cannot be an HDF5 file before HDF5 sees it.
void require_readable(const std::string& path) {
  struct stat facts {};
  if (::stat(path.c_str(), &facts) != 0) throw UserError(path, fmt::format("cannot open: {}", std::strerror(errno)), "check the path");
  if (!S_ISREG(facts.st_mode)) throw UserError(path, "is not a regular file", "name an HDF5 file");
  if (::access(path.c_str(), R_OK) != 0) throw UserError(path, fmt::format("cannot read: {}", std::strerror(errno)), "check the permissions");
  if (facts.st_size == 0) throw UserError(path, "is empty", "the program that wrote it did not finish");
  const bool is_hdf5 = H5Fis_hdf5(path.c_str()) > 0;
  H5Eclear2(H5E_DEFAULT);
  if (!is_hdf5) throw UserError(path, "is not an HDF5 file", "convert other formats with: moekv trace import");
}

}  // namespace

File::File(Handle file, Handle root, std::shared_ptr<const Origin> origin) : Group(std::move(root), std::move(origin), "/"), file_(std::move(file)) {}

File File::create(const std::string& path) {
  detail::prepare();
  auto origin = std::make_shared<const Origin>(Origin{path, std::make_shared<detail::ScaleUsers>()});
  const Handle access = access_list();
  const Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  H5Pset_link_creation_order(creation.id(), creation_order);
  H5Pset_attr_creation_order(creation.id(), creation_order);
  Handle file(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.id(), access.id()), H5Fclose);
  if (file.id() < 0) {
    const std::string reason = detail::take_error();
    throw UserError(path, fmt::format("cannot create the file: {}", reason),
                    "check that the folder exists and is writable, and that the disk has room");
  }
  Handle root(H5Gopen2(file.id(), "/", H5P_DEFAULT), H5Gclose);
  return {std::move(file), std::move(root), std::move(origin)};
}

File File::open(const std::string& path, Access mode) {
  detail::prepare();
  require_readable(path);
  auto origin = std::make_shared<const Origin>(Origin{path, mode == Access::update ? std::make_shared<detail::ScaleUsers>() : nullptr});
  const Handle access = access_list();
  if (mode != Access::update && use_guarded_driver(access.id(), mode == Access::foreign ? GuardedTexts::short_only : GuardedTexts::any) < 0)
    throw SystemError(path + ": cannot register the file driver: " + detail::take_error());
  Handle file(H5Fopen(path.c_str(), mode == Access::update ? H5F_ACC_RDWR : H5F_ACC_RDONLY, access.id()), H5Fclose);
  if (file.id() < 0)
    throw UserError(path, fmt::format("cannot open as HDF5: {}", detail::take_error()), "the file is truncated, damaged or being written");
  Handle root(H5Gopen2(file.id(), "/", H5P_DEFAULT), H5Gclose);
  if (root.id() < 0) throw UserError(path, fmt::format("cannot open its root: {}", detail::take_error()), "the file is damaged");
  return {std::move(file), std::move(root), std::move(origin)};
}

void File::close() {
  if (!origin_->reading()) {
    detail::write_scale_users(*this, *origin_);
    check(H5Fflush(file_.id(), H5F_SCOPE_GLOBAL), "flush");
  }
  handle_.reset();
  check(H5Fclose(file_.release()), "close");
}

void Group::refuse_foreign_links(const std::string& name) const {
  std::size_t end = 0;
  while (end != std::string::npos) {
    end = name.find('/', end + 1);
    const std::string part = name.substr(0, end);
    if (part.empty() || part == "/") continue;
    if (check(H5Lexists(handle_.id(), part.c_str(), H5P_DEFAULT), "look up '" + part + "'") == 0) fail(fmt::format("'{}' is missing", part));
    H5L_info_t link{};
    check(H5Lget_info(handle_.id(), part.c_str(), &link, H5P_DEFAULT), "look up '" + part + "'");
    if (link.type != H5L_TYPE_HARD) fail(fmt::format("'{}' is a link to elsewhere; copy the data into the file", part));
  }
}

bool Group::has(const std::string& name) const {
  std::size_t end = 0;
  while (end != std::string::npos) {  // H5Lexists wants every parent to exist
    end = name.find('/', end + 1);
    const htri_t exists = H5Lexists(handle_.id(), name.substr(0, end).c_str(), H5P_DEFAULT);
    H5Eclear2(H5E_DEFAULT);
    if (exists <= 0) return false;
  }
  return true;
}

std::vector<std::string> Group::names() const {
  H5G_info_t facts{};
  check(H5Gget_info(handle_.id(), &facts), "list the members");
  const Handle list(H5Gget_create_plist(handle_.id()), H5Pclose);
  unsigned order = 0;
  const bool tracked = H5Pget_link_creation_order(list.id(), &order) >= 0 && (order & H5P_CRT_ORDER_TRACKED) != 0;
  const H5_index_t index = tracked ? H5_INDEX_CRT_ORDER : H5_INDEX_NAME;
  std::vector<std::string> found;
  for (hsize_t i = 0; i < facts.nlinks; ++i) {
    char text[1024];
    const auto length = check(H5Lget_name_by_idx(handle_.id(), ".", index, H5_ITER_INC, i, text, sizeof(text), H5P_DEFAULT), "list the members");
    found.emplace_back(text, std::min<std::size_t>(static_cast<std::size_t>(length), sizeof(text) - 1));
  }
  return found;
}

bool Group::is_group(const std::string& name) const {
  const Handle object(H5Oopen(handle_.id(), name.c_str(), H5P_DEFAULT), H5Oclose);
  H5Eclear2(H5E_DEFAULT);
  return object.id() >= 0 && H5Iget_type(object.id()) == H5I_GROUP;
}

Group Group::group(const std::string& name) const {
  refuse_foreign_links(name);
  const std::int64_t id = H5Gopen2(handle_.id(), name.c_str(), H5P_DEFAULT);
  return {Handle(check(id, "open group '" + name + "'"), H5Gclose), origin_, child(name)};
}

Group Group::create_group(const std::string& name) {
  const Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_create_intermediate_group(links.id(), 1);
  const Handle creation(H5Pcreate(H5P_GROUP_CREATE), H5Pclose);
  H5Pset_link_creation_order(creation.id(), creation_order);
  H5Pset_attr_creation_order(creation.id(), creation_order);
  const std::int64_t id = H5Gcreate2(handle_.id(), name.c_str(), links.id(), creation.id(), H5P_DEFAULT);
  return {Handle(check(id, "create group '" + name + "'"), H5Gclose), origin_, child(name)};
}

void Group::remove(const std::string& name) { check(H5Ldelete(handle_.id(), name.c_str(), H5P_DEFAULT), "remove '" + name + "'"); }

std::string library_version() {
  unsigned major = 0, minor = 0, release = 0;
  detail::prepare();
  if (H5get_libversion(&major, &minor, &release) < 0) return "unknown";
  return fmt::format("{}.{}.{}", major, minor, release);
}

}  // namespace moekv::h5
