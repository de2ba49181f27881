"""The scripts of Slurm jobs, with stand-ins for Slurm and the program: whatever signal comes when, a job is requeued or ends as it should; what is
submitted, and what is refused."""
import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

SOURCE = Path(os.environ.get("MOEKV_SOURCE_DIR", Path(__file__).resolve().parents[2]))
SCONTROL = """#!/bin/bash
echo "$@" >>"$LOG"
case $* in
  'show config') echo 'KillWait                = 30 sec' ;;
  '-o show job'*) echo "JobId=7 JobState=$STATE Reason=$REASON Dependency=(null)" ;;
  requeue*) exit 1 ;; # the real one ends the job
esac
"""
SBATCH = """#!/bin/bash
printf '%s\\n' --- "$@" >>"$LOG"
env >"$LOG.environment"
case $* in *merge*) [ -z "$REFUSE_MERGE" ] || exit 1 ;; esac
echo "Welcome to this cluster: 2 jobs of yours wait"
echo '4;cluster'
"""
WAIT = "for i in {1..1000}; do sleep 0.02; done; exit 9"


class Scripts(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="moekv job ")
        self.addCleanup(holder.cleanup)
        self.folder = Path(holder.name)

    def write(self, name, text):
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)


class JobScript(Scripts):
    def job(self, program, site="", state="RUNNING", reason="None", what=("part", "a.sweep", "one.yaml", "4"), **slurm):
        """Exit code of a job whose program is these lines of bash, and for what jobs a requeue was asked; its output in self.output."""
        self.write("scontrol", SCONTROL)
        self.write("program", "#!/bin/bash\n" + program + "\n")
        self.write("site.sh", "launch=()\n" + site + "\n")
        log = self.folder / "log"
        log.write_text("")
        environment = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}", "LOG": str(log), "STATE": state, "REASON": reason,
                       "SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0", **slurm}
        done = subprocess.run([SOURCE / "scripts/slurm/job.sh", self.folder / "site.sh", self.folder / "program", *what], env=environment,
                              capture_output=True, text=True, timeout=60, check=False)
        self.output, self.errors = done.stdout, done.stderr
        asked = [line.split()[1] for line in log.read_text().splitlines() if line.startswith("requeue")]
        return done.returncode, asked

    def test_modules_and_what_the_processes_get(self):
        module = 'module() { [ "$UNSET_BY_ALL" = x ] || [ "$2" = good ]; }\n'
        self.assertEqual(self.job('[ "$SLURM_EXPORT_ENV" = ALL ] && [ "$A" = b ]', site=module + "modules=(good)\nlaunch_environment=(A=b)", SLURM_EXPORT_ENV="NONE"), (0, []))
        self.assertEqual(self.job("exit 0", site=module + "modules=(good bad)"), (2, []))
        self.assertIn("'module load bad' failed in job 7_0", self.errors)

    def test_signals_while_the_program_starts(self):
        """It listens to none yet, and the system ends it; or it is not there at all, and is not begun."""
        for signal, code in (("USR1", 138), ("TERM", 143)):
            for where, program, site, end in (("in the program", f"kill -{signal} $$", "", code),
                                              ("in the script", f"kill -{signal} $PPID; {WAIT}", "", 138),
                                              ("before there is a program", "exit 9", f"kill -{signal} $$", 75)):
                with self.subTest(f"{signal} {where}"):
                    self.assertEqual(self.job(program, site), (end, ["7_0"]))

    def test_signals_that_are_heard(self):
        """As SIGUSR1: launchers kill what they started after a SIGTERM."""
        for signal in ("USR1", "TERM"):
            with self.subTest(signal):
                self.assertEqual(self.job(f"trap 'exit 75' USR1; kill -{signal} $PPID; {WAIT}"), (75, ["7_0"]))

    def test_a_cancelled_job_does_not_come_back(self):
        for end in ("exit 75", "kill -TERM $$"):
            with self.subTest(end):
                told = "kill -TERM $PPID; until grep -q 'show job' \"$LOG\"; do sleep 0.01; done;"
                self.assertEqual(self.job(f"{told} {end}", state="CANCELLED")[1], [])
        self.assertEqual(self.job("kill -TERM $$", state="COMPLETING"), (143, []))

    def test_the_time_limit_requeues_at_once(self):
        self.assertIn("7_0", self.job("kill -TERM $PPID; until grep -q requeue \"$LOG\"; do sleep 0.01; done; exit 3",
                                    state="TIMEOUT", reason="TimeLimit")[1])

    def test_other_ends(self):
        self.assertEqual(self.job("exit 0"), (0, []))
        self.assertEqual(self.job("exit 1"), (1, []))
        self.assertEqual(self.job("kill -KILL $$"), (137, []))
        self.assertEqual(self.job("exit 75", SLURM_RESTART_COUNT="20"), (75, []))
        self.assertIn("not requeued: its most_restarts=20 are used up", self.output)
        self.assertEqual(self.job("exit 75", site="most_restarts=3", SLURM_RESTART_COUNT="2"), (75, ["7_0"]))
        self.assertEqual(self.job("exit 75", site="most_restarts=\nmodules=\nlaunch_environment=\ngrace_seconds="), (75, ["7_0"]))
        self.assertEqual(self.job("exit 75", SLURM_ARRAY_JOB_ID="4", SLURM_ARRAY_TASK_ID="2"), (75, ["4_2"]))

    def test_failed_points_are_tried_again_in_the_first_start_only(self):
        part = ("part", "a.sweep", "one.yaml", "4", "page.slots=8", "--retry-failed", "--files", "each")
        for restarts in ("0", "1"):
            self.job('echo "$*"', what=part, SLURM_RESTART_COUNT=restarts)
            self.assertEqual("--retry-failed" in self.output, restarts == "0", self.output)
            self.assertIn("--files each --out a.sweep --resume --part 0/4", self.output)

    def test_one_configuration_is_not_requeued(self):
        """It saves nothing."""
        one = ("run", "one.yaml", "--out", "one.h5")
        self.assertEqual(self.job(f"kill -USR1 $PPID; {WAIT}", what=one), (138, []))
        self.assertIn("interrupted, not requeued: moekv run saves nothing", self.output)
        self.assertEqual(self.job("kill -TERM $PPID; until grep -q 'show job' \"$LOG\"; do sleep 0.01; done; sleep 0.1; exit 3", what=one, state="TIMEOUT",
                                  reason="TimeLimit"), (3, []))
        self.assertIn("ended by its time limit, not requeued", self.output)


class SubmitScript(Scripts):
    def setUp(self):
        super().setUp()
        self.write("sbatch", SBATCH)
        self.write("squeue", '#!/bin/bash\n[ "$*" != "--noheader --jobs=$QUEUED" ] || echo it waits\n')
        self.write("scancel", '#!/bin/bash\necho "$@" >>"$LOG.cancelled"\nexit "${REFUSE_CANCEL:-0}"\n')
        self.log = self.folder / "log"

    def submit(self, *arguments, site="", **more):
        """submit.sh with this site file."""
        self.write("site.sh", site + "\n")
        self.log.write_text("")
        environment = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}", "LOG": str(self.log), **more}
        return subprocess.run([SOURCE / "scripts/slurm/submit.sh", self.folder / "site.sh", "true", *arguments], env=environment, cwd=self.folder,
                              capture_output=True, text=True, timeout=60, check=False)

    def test_site_files(self):
        for site, shape in (("", "1 1 0 0"), ("nodes=\ntasks_per_node=\ngpus_per_node=\nmodules=\nsbatch_options=\ntime_limit=", "1 1 0 0"),
                            ("nodes=2\ntasks_per_node=3\nmemory_per_node=64g", f"2 3 {64 << 30} 0"), ("gpus_per_node=4\ngpu_memory=512", f"1 4 0 {512 << 20}"),
                            ("nodes=3\nlaunch=", "1 1 0 0")):
            with self.subTest(site):
                self.assertEqual(self.submit("shape", site=site).stdout.strip(), shape)
        for site in ("echo hello", "false", "[ \"$NOT_SET_ANYWHERE\" = x ]"):
            with self.subTest(site):
                self.assertEqual(self.submit("shape", site=site).stdout.strip(), "1 1 0 0")
        for site, words in (("sbatch_options=(--time=2-00:00:00)", "--time=2-00:00:00 is what the jobs of a sweep set themselves (set time_limit=)"),
                            ("sbatch_options=(--qos=q -N2)", "-N2 is what the jobs"), ("gpus_per_node=1\nsbatch_options=(--gres=gpu:a100:4)", "--gres=gpu:a100:4 is what the jobs"),
                            ("time_limit=1:00\ngrace_seconds=60", "grace_seconds=60 is not shorter than time_limit=1:00"), ("nodes=(", "is no script that bash can read")):
            with self.subTest(site):
                done = self.submit("shape", site=site)
                self.assertEqual(done.returncode, 2, done)
                self.assertIn(words, done.stderr)
        self.assertEqual(self.submit("shape", site="sbatch_options=(--gres=gpu:a100:4 -C big)\ntime_limit=1-00:00:00").returncode, 0)
        self.assertEqual(self.submit("shape", site="time_limit=0").returncode, 0)
        for site in ("nodes=-1", "nodes=1-2", "tasks_per_node=0", "gpus_per_node=some", "most_restarts=1.5", "memory_per_node=much", "gpu_memory=1X"):
            with self.subTest(site):
                done = self.submit("shape", site=site)
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                self.assertRegex(done.stderr, f"site.sh: error: {site} is no (whole number from [01] to 99999|size) \\(for example ")

    def submit_folder(self, name, **how):
        """For a folder of this name; what sbatch was called with, the array's arguments first."""
        (self.folder / name).mkdir(exist_ok=True)
        self.write("one.yaml", "")
        done = self.submit(name, "one.yaml", "4", "2", **how)
        return done, [call.splitlines()[1:] for call in self.log.read_text().split("---")[1:]]

    def test_characters_of_folders_and_options(self):
        name = "it's 50% \"odd\" #1.sweep"
        done, (parts, merge) = self.submit_folder(name, site="sbatch_options=('--comment=two \"words\"' --partition=gpu)")
        self.assertEqual(done.returncode, 0, done)
        logs = f"--output={self.folder}/{name}/slurm/".replace("%", "%%")
        for call, log in ((parts, "part-%a.log"), (merge, "merge.log")):
            self.assertEqual(call[:3], ["--parsable", '--comment=two "words"', "--partition=gpu"])
            self.assertIn(logs + log, call)
        self.assertIn("--array=0-3%2", parts)
        self.assertIn("--dependency=afterany:4", merge)
        self.assertEqual((self.folder / name / "slurm/jobs").read_text().split(), ["4", "4"])
        submitted = re.search("(?m)^# submitted by: (.*)", Path(parts[-1]).read_text())[1]
        again = subprocess.run(["bash", "-c", f"printf '%s\\n' {submitted}"], capture_output=True, text=True, check=True)
        self.assertEqual(again.stdout.splitlines(), ["sbatch", *parts])

    def test_a_job_inherits_no_other_job(self):
        left = {"SLURM_CONF": "/etc/slurm.conf", "PMIX_INSTALL_PREFIX": "/opt", "OMPI_MCA_btl": "self,tcp", "OMP_NUM_THREADS": "3"}
        gone = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "9", "SLURM_PROCID": "1", "SLURM_STEP_ID": "0", "SLURM_MEM_PER_NODE": "9", "PMIX_RANK": "1",
                "PMI_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_MCA_orte_hnp_uri": "0", "OMPI_MCA_ess": "^singleton", "OMPI_MCA_pml": "ob1",
                "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
        done, _ = self.submit_folder("a.sweep", **left, **gone)
        self.assertEqual(done.returncode, 0, done)
        environment = dict(line.split("=", 1) for line in Path(f"{self.log}.environment").read_text().splitlines() if "=" in line)
        self.assertEqual({name: environment.get(name) for name in left}, left)
        self.assertEqual(gone.keys() & environment.keys(), set())
        self.submit_folder("a.sweep", OMPI_MCA_btl="self,vader")
        self.assertNotIn("OMPI_MCA_btl=self,vader", Path(f"{self.log}.environment").read_text().splitlines())

    def test_a_refused_merge_takes_the_array_along(self):
        for cancel, words in (("0", "and job 4 is cancelled"), ("1", "and job 4 is still there")):
            done, calls = self.submit_folder("a.sweep", REFUSE_MERGE="yes", REFUSE_CANCEL=cancel)
            self.assertEqual((done.returncode, len(calls)), (2, 2), done)
            self.assertIn(words, done.stderr)
            self.assertEqual((self.folder / "a.sweep/slurm/jobs").read_text(), "4\n")
        self.assertEqual(Path(f"{self.log}.cancelled").read_text(), "4\n4\n")
        done, (_, merge) = self.submit_folder("a.sweep", site="sbatch_options=(--partition=gpu)\nmerge_options=(--partition=cpu --mem=8G)")
        self.assertEqual([word for word in merge if word.startswith(("--partition", "--mem"))], ["--partition=gpu", "--partition=cpu", "--mem=8G"], done)

    def test_folders_that_get_no_jobs(self):
        self.assertEqual(self.submit_folder("a.sweep")[0].returncode, 0)
        for name, environment, words in (("a.sweep", {"QUEUED": "4"}, "job 4 of .*a.sweep still waits or runs.*scancel 4 4"), ("b\\a", {}, "has a backslash")):
            done, calls = self.submit_folder(name, **environment)
            self.assertEqual((done.returncode, calls), (2, []), done)
            self.assertRegex(done.stderr, "submit.sh: error: .*" + words)
            self.assertEqual(self.submit("ready", name, **environment).returncode, 2)
        self.assertEqual(self.submit("ready", "not yet", QUEUED="5").returncode, 0)
        self.assertFalse((self.folder / "not yet").exists())

    def test_a_linked_sweep_file_keeps_its_name(self):
        (self.folder / "elsewhere").mkdir()
        (self.folder / "linked.yaml").symlink_to("elsewhere/one.yaml")
        (self.folder / "a.sweep").mkdir()
        self.assertEqual(self.submit("a.sweep", "linked.yaml", "1", "1").returncode, 0)
        self.assertIn("/a.sweep %s/linked.yaml 1\n" % str(self.folder).replace(" ", "\\ "), (self.folder / "a.sweep/slurm/parts.sbatch").read_text())

    def test_one_configuration(self):
        done = self.submit("run", "one.yaml", "--out", "one.h5", TMPDIR=str(self.folder))
        self.assertEqual(done.returncode, 0, done)
        self.assertNotIn("--signal", self.log.read_text())
        script, = self.folder.glob("moekv-run.*.sbatch")
        self.assertIn("run one.yaml --out one.h5", script.read_text())


if __name__ == "__main__":
    unittest.main()
